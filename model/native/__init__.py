"""The matcher in C, in int8 and fp32, for x86-64 processors with AVX-512 VNNI.

ONNX Runtime computes a graph operation by operation; here each product goes on in registers to what
follows it, and a pair's activations stay in the core's cache through all layers. The weights, and
in int8 the places where it rounds, are those of the bundle's `matcher.onnx`.

    structures  the weights as C reads them
    reading     a graph's weights, where it is one that is known
    sources     what it is compiled from, for setup.py and for who loads it
    library     the compiled code, where there is one and the processor runs it
    matcher     pairs to logits
"""
