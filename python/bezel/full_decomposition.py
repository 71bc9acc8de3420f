"""The stream down to its heads, neurons, experts, per-layer embeddings and the embedding."""

from __future__ import annotations

from dataclasses import replace

import torch

from bezel import residual_components as components
from bezel.cache_slice import Cut, SliceInput
from bezel.component_reading import Labelled, Reading, projection, reading_of, squeezed
from bezel.decomposition import Mode, Stack, embed_name, parts_of
from bezel.decomposition_checks import check_stream
from bezel.decomposition_inputs import Weights, layer_index, model_of, need, stream_name, wide
from bezel.neuron_stacks import NeuronStacks


class FullDecomposition(NeuronStacks):
    """All components of the stream in one stack."""

    def get_full_resid_decomposition(  # noqa: PLR0913  TransformerLens's signature
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: SliceInput = None,
        return_labels: bool = False,
        project_output_onto: torch.Tensor | None = None,
    ) -> Stack:
        """The stream that enters a block as the sum of every head, neuron and embedding.

        In this order, each block after block: heads "L0H0", neurons "L0N0" (or with
        expand_neurons=False "0_mlp_out"), where a block has experts all of them together
        "0_experts", per-layer embeddings "0_ple_out", and last "embed". Read parts by their labels.

        Args:
            layer: The block that the stream enters; None and -1 are the end of the stream.
            mlp_input: Decompose the input of the block's MLP: its heads are parts too.
            expand_neurons: False keeps each MLP's output (with its experts) as one part.
            apply_ln: See each part through the norm that it enters, at its recorded scale.
            pos_slice: Positions to keep; an index drops the axis.
            return_labels: Also the labels.
            project_output_onto: [d_model] or [d_model out]: only the components along these; the
                neurons are never made whole.

        Returns:
            [part batch pos d_model], at least float32; projected, [part batch pos] or [… out]; with
            return_labels also the labels.

        Raises:
            UnknownHookError: With the names_filter that would have recorded what is missing.
            DecompositionError: The parts do not sum to what was recorded: a hook changed it.

        Example:
            >>> parts, labels = cache.get_full_resid_decomposition(
            ...     expand_neurons=False, return_labels=True
            ... )
            >>> torch.allclose(parts.sum(0), cache["resid_post", -1], atol=1e-4)
            True
        """
        index, positions = layer_index(self, layer, mlp_input), Cut(pos_slice)
        self._need_all(index, mlp_input, expand_neurons)
        check_stream(self, embed_name(self), index, mlp_input)
        reading = reading_of(self, index, mlp_input, positions, apply_ln)
        reading = replace(reading, onto=projection(self, project_output_onto))
        heads = self._heads(index + mlp_input, index, positions, reading)
        groups = [heads]
        if expand_neurons:
            groups.append(self._neurons(index, None, positions, reading))
            groups.append(self._experts(index, positions, reading))
        else:
            groups.append(self._branches("mlp", index, positions, reading))
        groups.append(self._branches("ple", index, positions, reading))
        embed = wide(positions.apply(self[embed_name(self)], -2))
        embed = embed * Weights(model_of(self)).later_scalars(index)[0]
        groups.append(([reading.of_stack(embed.unsqueeze(0))], ["embed"]))
        stack = torch.cat([part for parts, _ in groups for part in parts])
        labels = [label for _, some in groups for label in some]
        stack = squeezed(stack, project_output_onto)
        return (stack, labels) if return_labels else stack

    def _need_all(self, index: int, mlp_input: bool, expand_neurons: bool) -> None:
        names = [embed_name(self), stream_name(self, index, mlp_input)]
        names += [part.name for part in parts_of(self, index, mlp_input, "all")]
        for i in range(index + mlp_input):
            names += components.head_names(self, i)
            if expand_neurons and i < index:
                names += components.mlp_names(self, i)
        need(self, names, "get_full_resid_decomposition")

    def _branches(self, mode: Mode, index: int, positions: Cut, reading: Reading) -> Labelled:
        later = Weights(model_of(self)).later_scalars(index)
        parts = parts_of(self, index, False, mode)
        values = [wide(positions.apply(self[part.name], -2)) * later[part.layer] for part in parts]
        read = [reading.of_stack(value.unsqueeze(0)) for value in values]
        return read, [part.label for part in parts]

    def _experts(self, index: int, positions: Cut, reading: Reading) -> Labelled:
        model = model_of(self)
        later = Weights(model).later_scalars(index)
        blocks = [i for i in range(index) if model.cfg.layers[i].moe is not None]
        values = [components.expert_result(self, i, positions) * later[i] for i in blocks]
        read = [reading.of_stack(value.unsqueeze(0)) for value in values]
        return read, [f"{i}_experts" for i in blocks]
