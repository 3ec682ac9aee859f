"""A whole step of a dense decoder as one op (C++; its reference is the torch decoder of the model room)."""

from sgl_kernels.decoder.native import DecoderSizes, LayerWeights, NativeDecoder, Packed, available, pack

__all__ = ["DecoderSizes", "LayerWeights", "NativeDecoder", "Packed", "available", "pack"]
