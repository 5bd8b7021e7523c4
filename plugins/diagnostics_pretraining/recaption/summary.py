"""One caption made of all that is known of a clip, by a causal model, or by a rule where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from diagnostics_training.language.decoder import decoder_named
from diagnostics_training.language.folder import quiet

from diagnostics import DiagnosticsError
from diagnostics.errors import describe
from diagnostics_pretraining.recaption.captioner import folder_digest
from diagnostics_pretraining.recaption.clips import Clip

ASKED = """Below are notes about one video. Some were written by people, others by programs that looked at the whole video or at single \
frames of it, in their order. Write one caption of the video from them.

- Two or three plain sentences, at most 60 words, in the present tense.
- Name what is seen, where it is and what happens. Leave out what only one frame says where the others say otherwise.
- Where notes contradict each other, trust people first, then the note on the whole video, then those on frames.
- Add nothing that no note says. Mention neither notes, nor frames, nor that this is a video.

{notes}

Caption:"""


class Summariser(Protocol):
    """identity: changes whenever what it says of the same notes may change."""

    name: str
    identity: str

    def summarise(self, clip: Clip, notes: str, video_caption: str) -> str:
        """The caption."""
        ...


class FirstKnown:
    """The caption that a person wrote where there is one, else that of the whole clip: what there is without a model."""

    name = identity = "first known"

    def summarise(self, clip: Clip, notes: str, video_caption: str) -> str:
        return clip.human_caption or video_caption


class ModelSummariser:
    """A causal model in a folder, asked by its chat template where it has one; the most probable token each time."""

    def __init__(self, name: str, tokens: int, device: str, precision: str) -> None:
        self.name = name
        self._decoder = decoder_named(name, (), half=precision == "bf16")
        self._model: Any = self._decoder.module.to(device)
        self._tokens, self._device = tokens, device
        self.identity = f"{folder_digest(Path(name).expanduser())} tokens={tokens} {precision}"

    def summarise(self, clip: Clip, notes: str, video_caption: str) -> str:
        prompt = ASKED.format(notes=notes)
        tokenizer = self._decoder.tokenizer
        if tokenizer.chat_template is not None:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            ids = self._decoder.tokens(text)
        else:
            ids = [self._decoder.start, *self._decoder.tokens(prompt)]
        most = self._decoder.context
        if most is not None and len(ids) + self._tokens > most:
            raise DiagnosticsError(
                f"The notes on clip {clip.id} are {len(ids)} tokens of {self.name}, which with an answer of {self._tokens} are more than "
                f"its {most}: give clips of fewer frames, or fewer --tokens."
            )
        given = torch.tensor([ids], device=self._device)
        try:
            with quiet(), torch.no_grad():
                answer = self._model.generate(
                    input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=self._tokens, do_sample=False,
                    num_beams=1, eos_token_id=self._decoder.end, pad_token_id=self._decoder.end,
                )  # fmt: skip
        except Exception as error:
            raise DiagnosticsError(
                f"{self.name} fails on the notes on clip {clip.id} ({describe(error)}): give another --summary; captions that are made "
                "stay."
            ) from error
        return " ".join(tokenizer.decode(answer[0, len(ids) :], skip_special_tokens=True).split())


def notes_text(clip: Clip, video_caption: str | None, frame_captions: Sequence[str]) -> str:
    """What is known of a clip, a line each, people's words first."""
    lines = [("Title, by a person", clip.title), ("Caption, by a person", clip.human_caption)]
    lines.append(("The whole video", video_caption or ""))
    lines += [(f"Frame {i}", text) for i, text in enumerate(frame_captions, 1)]
    return "\n".join(f"{name}: {text}" for name, text in lines if text)
