"""Makes `.wheels/`: what a machine with torch, and perhaps nothing else, lacks for `on_a_gpu.py`; never torch itself.

    python benchmarks/wheels_for_a_gpu.py --python 3.12

Our own wheel holds names and entry points alone, since the checkout travels too. The others are those that pip would take beside the
torch that is installed here, for 64-bit Linux on x86 and for the Python named, without what no part imports (`UNUSED`) and without tests; they are
packed again with LZMA. At most `--megabytes` travel: the files under version control and the wheels. What does not fit is left out and named, last of
all `LAST`, without which most of `tests` and the demonstration fail where they are not installed: `--megabytes 96` has them too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WHEELS = ROOT / ".wheels"
OURS = "encoder-diagnostics"
BESIDE = ("timm", "open_clip_torch", "pytest", "hypothesis")
"""What the scripts and tests import beyond what the package asks for."""
UNUSED = {
    "matplotlib",
    "contourpy",
    "cycler",
    "fonttools",
    "kiwisolver",
    "pyparsing",
    "torch_cka",
    "plotly",
    "narwhals",
    "hf_xet",
}
FIRST, LAST = ("numpy", "pandas"), ("scikit_learn", "scipy")
OF_ONE_TORCH = re.compile(r"^torchvision(\.libs/|.*\.so(\.\d+)*$|/_meta_registrations\.py$)")
"""What of torchvision fits one build of torch alone, with the registration of it; its transforms, which timm imports, need none of it."""
LEFT_OUT = re.compile(r"(^|/)tests?/|\.(pyi|pyx|pxd|h|a|map)$")
GLIBC = (28, 27, 24, 17)


def write_own(folder: Path) -> Path:
    """Our names and entry points, as they are installed here."""
    found = importlib.metadata.distribution(OURS)
    stem = f"{OURS.replace('-', '_')}-{found.version}"
    texts = {"METADATA": found.read_text("METADATA"), "entry_points.txt": found.read_text("entry_points.txt")}
    return write_wheel(folder / f"{stem}-py3-none-any.whl", stem, texts)


def write_wheel(path: Path, stem: str, texts: dict[str, str | None]) -> Path:
    """A wheel of metadata alone."""
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in texts.items():
            wheel.writestr(f"{stem}.dist-info/{name}", text or "")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    return path


def download(folder: Path, python: str) -> list[Path]:
    """The wheels that pip takes beside torch, which an empty one of the same version stands for."""
    torch = f"{importlib.metadata.version('torch').partition('+')[0]}+there"
    stand_in = f"Metadata-Version: 2.1\nName: torch\nVersion: {torch}\n"
    write_wheel(folder / f"torch-{torch}-py3-none-any.whl", f"torch-{torch}", {"METADATA": stand_in})
    (folder / "torch.txt").write_text(f"torch=={torch}\n")
    asked = [text for text in importlib.metadata.requires(OURS) or [] if "extra ==" not in text]
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC]
    command = [
        sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--python-version", python, *platforms,
        "--find-links", str(folder), "-c", str(folder / "torch.txt"), "-d", str(folder / "taken"),
    ]  # fmt: skip
    subprocess.run([*command, *asked, *BESIDE], check=True)
    wheels = [path for path in (folder / "taken").iterdir() if path.name.partition("-")[0] not in UNUSED | {"torch"}]
    names = {path: path.name.partition("-")[0] for path in wheels}
    return sorted(wheels, key=lambda path: (names[path] in LAST, names[path] not in FIRST, path.stat().st_size))


def pack_again(wheel: Path, folder: Path) -> Path:
    """The same without tests and with LZMA, which takes a third less."""
    path = folder / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as new:
        for name in old.namelist():
            if not LEFT_OUT.search(name) and not OF_ONE_TORCH.search(name):
                new.writestr(name, old.read(name))
        if wheel.name.startswith("torchvision-"):
            new.writestr("torchvision/_meta_registrations.py", "")
    return path


def travelling() -> int:
    """Bytes of an archive of the files under version control, and of new ones that are not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    # Each has a header there, and whole blocks, of 512 bytes.
    return sum((ROOT / name).stat().st_size + 1023 for name in listed if name and (ROOT / name).is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python", default=".".join(map(str, sys.version_info[:2])), help="of that machine [this one's]"
    )
    parser.add_argument("--megabytes", type=float, default=64, help="of 2^20 bytes, of all that travels [64]")
    parser.add_argument("--smallest", action="store_true", help="our own alone, without a network, and not kept")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.smallest:
            print(write_own(folder).name)
            return
        shutil.rmtree(WHEELS, ignore_errors=True)
        WHEELS.mkdir()
        (folder / "again").mkdir()
        left = given.megabytes * 2**20 - travelling()
        out: list[str] = []
        for wheel in [write_own(folder), *download(folder, given.python)]:
            # Half of its size is less than LZMA makes of any: the largest take a minute.
            packed = pack_again(wheel, folder / "again") if wheel.stat().st_size / 2 <= left else wheel
            if packed is not wheel and packed.stat().st_size <= left:
                left -= packed.stat().st_size
                shutil.move(packed, WHEELS)
            else:
                out.append(f"{wheel.name.partition('-')[0]} (of {wheel.stat().st_size / 2**20:.1f})")
    size = sum(path.stat().st_size for path in WHEELS.iterdir())
    print(
        f"{len(list(WHEELS.iterdir()))} wheels of {size / 2**20:.1f} MB in {WHEELS.name}; {left / 2**20:.1f} MB are left of {given.megabytes:g}"
    )
    if out:
        print(
            f"Left out, in MB: {', '.join(out)}. Where they are not installed, give --megabytes more, or what imports them fails."
        )


if __name__ == "__main__":
    main()
