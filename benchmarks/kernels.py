"""The kernels of attention statistics compiled for real cards, which needs none: `nox -s kernels` installs triton and runs this.

    python benchmarks/kernels.py

Every kernel, type of number and width of a head is compiled for each compute capability as it is launched. Held are the bytes that a
thread spills, and the shared memory of a program against what the capability has. The table goes to `kernels.json`, with a digest of the
kernels' file, which has their tiles and precision too, and of this one: as long as that is the same, the session has nothing to do.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

KERNELS = Path(__file__).parents[1] / "diagnostics/encoders/attention/triton_kernels.py"
TABLE = Path(__file__).with_suffix(".json")
MOST_SPILLED = 1126
"""Bytes a thread, 1.1 KB."""
SHARED = {80: 163, 89: 99, 90: 227}
"""KiB that a program may have, by compute capability (CUDA C++ Programming Guide, technical specifications)."""
TYPES = {"bf16": 2, "fp16": 2, "fp32": 4}


def digest() -> str:
    """Of all files on which the table depends."""
    return hashlib.sha256(KERNELS.read_bytes() + Path(__file__).read_bytes()).hexdigest()


def load_kernels() -> Any:
    """The module by its file: the package would import torch."""
    spec = importlib.util.spec_from_file_location("triton_kernels", KERNELS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compile_kernel(
    kernel: Any, constants: dict[str, Any], options: dict[str, int], number: str, capability: int
) -> tuple[int, int]:
    """Bytes that a thread spills, and bytes of shared memory, where rows are contiguous and aligned, as a model's are."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, values, aligned = dict[str, str](), dict[tuple[int, ...], Any](), dict[tuple[int, ...], Any]()
    for place, name in enumerate(kernel.arg_names):
        if name in constants or name.endswith("_column"):
            signature[name], values[(place,)] = "constexpr", constants.get(name, 1)
            continue
        pointer = number if name in ("q_at", "k_at", "v_at", "out_at") else "i32" if name == "kind_at" else "fp32"
        signature[name] = f"*{pointer}" if name.endswith("_at") else "fp32" if name == "scale" else "i32"
        if name.endswith(("_at", "_row", "_head", "_sample")):
            aligned[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        said = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    spilled = re.search(r"STACK:(\d+)", said)
    assert spilled is not None
    return int(spilled[1]), made.metadata.shared


def main() -> None:
    if importlib.util.find_spec("triton") is None:
        print("left out: triton is not installed (nox -s kernels installs it)")
        sys.exit("--smallest" not in sys.argv)
    module = load_kernels()
    kernels = {"rows": {"axes": 3}, "error": {}, "received": {}}
    if "--smallest" in sys.argv:
        kernels = {"received": {}}
    rows, missed = list[dict[str, Any]](), 0
    print(f"{'kernel':10} {'type':5} width  card   spilled   of   shared   of")
    for name, more in kernels.items():
        for number, size in TYPES.items() if "--smallest" not in sys.argv else [("bf16", 2)]:
            for width, (queries, keys) in module.TILES[size].items():
                constants = {"causal": True, "precision": module.PRECISION, "M": queries, "N": keys, "D": width, **more}
                for capability, most in SHARED.items():
                    kernel = getattr(module, f"{name}_kernel")
                    spilled, shared = compile_kernel(kernel, constants, module.OPTIONS, number, capability)
                    miss = spilled > MOST_SPILLED or shared > most * 1024
                    missed += miss
                    print(
                        f"{name:10} {number:5} {width:5}  sm_{capability} {spilled:7,} B  {MOST_SPILLED:,} "
                        f"{shared / 1024:6.0f} KiB {most}{'  MISSED' if miss else ''}",
                        flush=True,
                    )
                    rows.append(
                        {"kernel": name, "type": number, "width": width, "capability": capability}
                        | {"spilled": spilled, "shared": shared}
                    )
    version = importlib.metadata.version("triton")
    worst = max(row["spilled"] for row in rows)
    print(f"{len(rows)} kernels by triton {version}: {missed} missed, {worst:,} bytes a thread at most")
    if not missed and "--smallest" not in sys.argv:
        lines = ",\n".join(json.dumps(row) for row in rows)
        TABLE.write_text(f'{{"digest": "{digest()}", "triton": "{version}", "kernels": [\n{lines}\n]}}\n')
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
