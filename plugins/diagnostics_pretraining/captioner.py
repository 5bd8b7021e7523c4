"""Captioners of clips: any model of transformers that turns images or videos, with a text, into text."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diagnostics_timm.weights import quiet
from diagnostics_training.alignment.decoder import LOCAL, check_weights, checked_folder, why_not_loaded
from diagnostics_training.trainer.record import digest_of_file

from diagnostics.plugin import Dataset, DiagnosticsError, explaining

# A clip and what is known of it besides its pixels.


@dataclass(frozen=True)
class Clip:
    """Sample `row` of a dataset: frames uint8 [t, y, x, 3], `rate` of them a second (None: not known).

    title, human_caption: what people wrote; "" where nobody did.
    """

    row: int
    id: str
    frames: np.ndarray
    rate: float | None
    title: str = ""
    human_caption: str = ""


def clip_of(dataset: Dataset, row: int, title: str = "", human_caption: str = "") -> Clip:
    """A sample as a clip; an image is a clip of one frame."""
    frames = dataset[row]
    if dataset.modality == "image":
        frames = frames[None]
    if frames.ndim == 3:
        frames = frames[..., None]
    if frames.shape[-1] == 1:
        frames = np.repeat(frames, 3, axis=-1)
    return Clip(row, str(dataset.ids[row]), frames[..., :3], dataset.rate, title, human_caption)


def digest_of(frames: np.ndarray) -> str:
    """Of pixels: other frames have another digest, under whatever name."""
    array = np.ascontiguousarray(frames)
    return hashlib.sha256(f"{array.dtype.str} {array.shape};".encode() + array.tobytes()).hexdigest()


REMEDY = (
    "give `rules` (for clips of shapes), or the folder of an image- or video-text-to-text model as save_pretrained of "
    "transformers writes it"
)
CLIP_PROMPT = (
    "Describe this video in one paragraph: who and what is seen, where, and what happens from the first frame to the "
    "last. Say only what can be seen."
)
FRAME_PROMPT = "Describe this image in one sentence. Say only what can be seen."
HASHED = (".json", ".safetensors", ".model", ".txt", ".jinja")
"""Suffixes of files that decide what a model in a folder says."""


class ModelCaptioner:
    """A model in a folder, in eval mode, that answers with the most probable token each time, at most `tokens` of them.

    A model that has a chat template is asked with the prompt. One without is given its image token and the prompt where
    it has such a token, else the image alone, and captions single images only. Frames go to the model's video processor
    where there is one, all of them; a model of images with a chat template gets the frames as images of one question.

    Raises DiagnosticsError for a folder that holds no such model, for code or pickles, and for a model without a
    processor.
    """

    def __init__(self, name: str, tokens: int, device: str, precision: str) -> None:
        self.name = name
        folder = checked_folder(name, "captioner", REMEDY)
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            with quiet():
                self.processor: Any = AutoProcessor.from_pretrained(folder, **LOCAL)
                # With `output_loading_info` these are two, which its annotation does not say.
                model, info = cast(
                    "tuple[Any, Any]",
                    AutoModelForImageTextToText.from_pretrained(
                        folder, dtype=_DTYPES[precision], use_safetensors=True, output_loading_info=True, **LOCAL
                    ),
                )
        except Exception as error:
            why = why_not_loaded(error, "model that turns images and text into text")
            if "processor" in why:
                why = "its processor, as save_pretrained writes it, is not beside its config.json"
            raise DiagnosticsError(
                f"Captioner {name} cannot be loaded ({why}): {REMEDY}.", code="unreadable"
            ) from error
        check_weights(model, info, f"captioner {name}", REMEDY)
        if getattr(self.processor, "image_processor", None) is None:
            raise DiagnosticsError(
                f"Captioner {name} cannot be loaded (its processor, as save_pretrained writes it, is not beside its "
                f"config.json): {REMEDY}.",
                code="unreadable",
            )
        self.model, self.tokens, self.device = model.eval().to(device), tokens, device
        self.chats = getattr(self.processor, "chat_template", None) is not None
        self.videos = self.chats
        self.identity = f"{folder_digest(folder)} tokens={tokens} {precision}"

    def caption_clip(self, clip: Clip, prompt: str) -> str:
        if getattr(self.processor, "video_processor", None) is None:
            return self._answer(clip, prompt, images=list(clip.frames))
        return self._answer(clip, prompt, video=clip.frames)

    def caption_frame(self, clip: Clip, frame: int, prompt: str) -> str:
        return self._answer(clip, prompt, images=[clip.frames[frame]])

    def _answer(
        self, clip: Clip, prompt: str, images: list[np.ndarray] | None = None, video: np.ndarray | None = None
    ) -> str:
        with (
            explaining(
                f"Captioner {self.name} fails on clip {clip.id}",
                "give clips of fewer or smaller frames, or another captioner; captions that are written are kept",
            ),
            quiet(),
            torch.no_grad(),
        ):
            batch = self._inputs(clip, prompt, images, video).to(self.device, self.model.dtype)
            given = batch.get("input_ids")
            self._check_length(clip, 0 if given is None else given.shape[1])
            answer = self.model.generate(**batch, max_new_tokens=self.tokens, do_sample=False, num_beams=1)[0]
            # Some give the question back before the answer.
            if given is not None and torch.equal(answer[: given.shape[1]], given[0]):
                answer = answer[given.shape[1] :]
            return " ".join(self.processor.tokenizer.decode(answer, skip_special_tokens=True).split())

    def _inputs(self, clip: Clip, prompt: str, images: list[np.ndarray] | None, video: np.ndarray | None) -> Any:
        options: dict[str, Any] = {"return_tensors": "pt"}
        if images is not None:
            options["images"] = images
        if video is not None:
            options |= {"videos": [video], "do_sample_frames": False}
            if clip.rate is not None:
                frames = list(range(len(video)))
                options["video_metadata"] = [
                    {"total_num_frames": len(video), "fps": clip.rate, "frames_indices": frames}
                ]
        if not self.chats:
            token = getattr(self.processor, "image_token", None)
            return self.processor(**options, **({"text": f"{token}\n{prompt}"} if token else {}))
        seen = [{"type": "video"}] if images is None else [{"type": "image"}] * len(images)
        asked = [{"role": "user", "content": [*seen, {"type": "text", "text": prompt}]}]
        text = self.processor.apply_chat_template(asked, add_generation_prompt=True)
        start = self.processor.tokenizer.bos_token
        if start and text.startswith(start):
            options["add_special_tokens"] = False
        return self.processor(text=[text], **options)

    def _check_length(self, clip: Clip, given: int) -> None:
        most = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        if most is not None and given + self.tokens > most:
            raise DiagnosticsError(
                f"Clip {clip.id} takes {given} tokens of captioner {self.name}, which with an answer of {self.tokens} "
                f"are more than its {most}: give clips of fewer or smaller frames, or fewer --tokens.",
                code="too-large",
            )


_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def folder_digest(folder: Path) -> str:
    """Of the files in a folder that decide what its model says, by their names and bytes."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in HASHED and path.is_file():
            digest.update(path.name.encode() + b"\x1f" + digest_of_file(path))
    return digest.hexdigest()
