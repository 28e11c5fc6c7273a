"""The matcher's rows as inputs: its states become tables that the pairs are chosen from.

So states can stay where they are, on a GPU, from one pass to the next, and pairs of several
searches can share a pass. The graph is otherwise what it was.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper

from model.onnx_graph import Graph

#: Each side's states and scales, and the input that chooses their rows.
_SIDES = {
    "text_rows": ("text_states", "text_scales"),
    "image_rows": ("image_states", "image_scales"),
}


def with_row_inputs(model: ModelProto) -> ModelProto:
    """A matcher of a text [Q, T, H] and a picture [N, P, H] for each pair that is asked for.

    Three inputs are added, all int64: `text_rows` and `image_rows`, [B] or [1], choose the rows of
    the pairs, and one of [1] goes with all rows of the other side; `text_length` [1] is how many of
    the T tokens are read, at least as many as the longest of the chosen texts has.

    Args:
        model: a matcher in any precision; used up.
    """
    graph = Graph(model)
    start, axis = (
        graph.add_constant(name, np.array([value], dtype=np.int64))
        for name, value in (("rows_start", 0), ("rows_axis", 1))
    )
    added = []
    chosen: dict[str, str] = {}
    for rows, tables in _SIDES.items():
        for name in tables:
            gathered = chosen[name] = f"{name}_chosen"
            if rows == "image_rows":
                added.append(helper.make_node("Gather", [name, rows], [gathered], axis=0))
                continue
            whole = f"{name}_whole"
            added += [
                helper.make_node("Gather", [name, rows], [whole], axis=0),
                helper.make_node("Slice", [whole, start, "text_length", axis], [gathered]),
            ]
    for node in graph.nodes:
        for place, name in enumerate(node.input):
            node.input[place] = chosen.get(name, name)
    graph.nodes = [*added, *graph.nodes]
    for entry in model.graph.input:  # they are no longer as many, nor as long, as the pairs
        for place, size in enumerate(entry.type.tensor_type.shape.dim):
            if size.dim_param:
                size.dim_param = f"{entry.name.split('_')[0]}_table_{place}"
    model.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.INT64, shape)
        for name, shape in (
            ("text_rows", ["text_rows"]),
            ("image_rows", ["image_rows"]),
            ("text_length", [1]),
        )
    )
    return graph.finish()
