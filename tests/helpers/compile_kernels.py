"""Compiles all Triton kernels to machine code, which needs no GPU: `compile_kernels.py 80 90` for
compute capabilities 8.0 and 9.0. Prints a line for each: kernel, capability, bytes of code.
"""

import sys

from triton import compile as compile_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from dreamfusion.scenes.nerf.hashgrid import triton as encoding
from dreamfusion.scenes.nerf.ray_marching import triton as marching

# Other arguments are constants.
TYPES = {
    **dict.fromkeys(("points", "table", "values", "origins", "directions", "near"), "*fp32"),
    **dict.fromkeys(("far", "jitter", "bound", "positions", "t_out"), "*fp32"),
    **dict.fromkeys(("offsets", "index"), "*i64"),
    **dict.fromkeys(("n_points", "n_rays", "n_steps"), "i32"),
    **dict.fromkeys(("step", "max_bound"), "fp32"),
    "levels": "*i32",
    "occupied": "*u8",
}
ENCODE = {"N_FEATURES": 3, "WIDTH": 4, "BLOCK": encoding._BLOCK}
MARCH = {"RESOLUTION": 64, "BLOCK": marching._BLOCK}
KERNELS = [
    (encoding._encode, ENCODE | {"BACKWARD": False}),
    (encoding._encode, ENCODE | {"BACKWARD": True}),
    (marching._march, MARCH | {"FILL": False}),
    (marching._march, MARCH | {"FILL": True}),
]

for capability in map(int, sys.argv[1:]):
    for kernel, constants in KERNELS:
        names = kernel.arg_names
        source = ASTSource(
            kernel,
            {name: TYPES.get(name, "constexpr") for name in names},
            {(names.index(name),): value for name, value in constants.items()},
        )
        compiled = compile_kernel(
            source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": False}
        )
        assert "fma." not in compiled.asm["ptx"], kernel
        print(kernel.__name__, capability, len(compiled.asm["cubin"]))
