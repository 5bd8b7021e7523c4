"""The kit for plugin authors on Perception Encoders: on images, at another size by either convention, and on frames."""

from __future__ import annotations

import pytest

from diagnostics.plugin import EncoderTests

pytest.importorskip("timm")


class TestCore(EncoderTests):
    encoder = "pe:core-t16-384?pretrained=false&img_size=32"


class TestSpatial(EncoderTests):
    encoder = "pe:spatial-t16-512?pretrained=false&img_size=64&positions=rescaled"


class TestFrames(EncoderTests):
    encoder = "pe-video:core-t16-384?pretrained=false&img_size=32&frames=3&sampler=endpoints"
