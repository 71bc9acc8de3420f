"""Neurons as parts of the stream."""

from __future__ import annotations

from dataclasses import replace

import torch

from bezel import residual_components as components
from bezel.cache_slice import Cut, SliceInput
from bezel.component_reading import (
    Labelled,
    Reading,
    projection,
    reading_of,
    remainder,
    squeezed,
    stacked,
)
from bezel.decomposition import Stack, embed_name
from bezel.decomposition_checks import check_stream
from bezel.decomposition_inputs import Weights, layer_index, model_of, need, stream_name
from bezel.errors import ArgumentError
from bezel.head_stacks import HeadStacks


class NeuronStacks(HeadStacks):
    """What single neurons add to the stream."""

    def get_neuron_results(
        self,
        layer: int,
        neuron_slice: SliceInput = None,
        pos_slice: SliceInput = None,
        project_output_onto: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What each neuron of a block's dense MLP adds to the stream in that block.

        Through the post-norms at their recorded scales, before the layer scalar. All of them sum to
        hook_mlp_out; in a block with experts, to hook_mlp_out less the experts' share (which
        `get_full_resid_decomposition` gives as "3_experts").

        Args:
            layer: The block.
            neuron_slice: Neurons to keep; an index drops the axis.
            pos_slice: Positions to keep; an index drops the axis.
            project_output_onto: [d_model] or [d_model out]: only the components along these; the
                whole is never made.

        Returns:
            [batch pos neuron d_model], at least float32; projected, [… neuron] or [… neuron out].

        Raises:
            UnknownHookError: With the names_filter that would have recorded what is missing.
            DecompositionError: A hook changed a value between the neurons and hook_mlp_out.

        Example:
            >>> cache.get_neuron_results(3, neuron_slice=[7, 9], pos_slice=-1).shape
            torch.Size([1, 2, 96])
        """
        if not 0 <= layer < self.n_layers:
            raise ArgumentError(f"layer is {layer!r}; wanted 0 to {self.n_layers - 1}")
        need(self, components.mlp_names(self, layer), "get_neuron_results")
        reading = Reading(onto=projection(self, project_output_onto))
        neurons = components.Neurons(self, layer, Cut(pos_slice))
        results = neurons.results(Cut(neuron_slice, "neuron_slice"), reading)
        return squeezed(results, project_output_onto)

    def stack_neuron_results(  # noqa: PLR0913  TransformerLens's signature
        self,
        layer: int | None,
        pos_slice: SliceInput = None,
        neuron_slice: SliceInput = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
        project_output_onto: torch.Tensor | None = None,
        mlp_input: bool = False,
    ) -> Stack:
        """What every neuron of the dense MLPs before `layer` adds to the stream that enters it.

        Large: d_mlp times the stream for each block. Take a pos_slice, a neuron_slice, or
        project_output_onto, which never makes the whole.

        Args:
            layer: The first block that is left out; None and -1 leave none out.
            pos_slice: Positions to keep; an index drops the axis.
            neuron_slice: Neurons of each block to keep; an index keeps the axis here.
            return_labels: Also "L0N0", "L0N1" …
            incl_remainder: End with the rest of the stream: attention, experts, the embeddings.
            apply_ln: See each part through the norm that it enters, at its recorded scale.
            project_output_onto: [d_model] or [d_model out].
            mlp_input: The stream that the MLP of `layer` reads instead of its attention.

        Returns:
            [neuron batch pos d_model], block after block, at least float32; projected, [neuron
            batch pos] or [… out]; with return_labels also the labels.

        Raises:
            UnknownHookError: With the names_filter that would have recorded what is missing.
            DecompositionError: A hook changed a value between the neurons and the stream.

        Example:
            >>> direction = b.tokens_to_residual_directions("Paris")
            >>> neurons = cache.stack_neuron_results(-1, project_output_onto=direction)
            >>> neurons.shape  # [neuron batch pos]
            torch.Size([2688, 1, 10])
        """
        index, positions = layer_index(self, layer, mlp_input), Cut(pos_slice)
        stream = stream_name(self, index, mlp_input)
        names = [name for i in range(index) for name in components.mlp_names(self, i)]
        need(self, [*names, stream] if incl_remainder else names, "stack_neuron_results")
        check_stream(self, embed_name(self), index, mlp_input)
        reading = reading_of(self, index, mlp_input, positions, apply_ln)
        reading = replace(reading, onto=projection(self, project_output_onto))
        parts, labels = self._neurons(index, neuron_slice, positions, reading)
        if incl_remainder:
            parts.append(remainder(self, parts, stream, positions, reading))
            labels.append("remainder")
        stack = squeezed(stacked(parts, "stack_neuron_results"), project_output_onto)
        return (stack, labels) if return_labels else stack

    def _neurons(
        self, target: int, neuron_slice: SliceInput, positions: Cut, reading: Reading
    ) -> Labelled:
        """Stacks [neuron …] of the blocks before `target`, as they enter it."""
        chosen = Cut(neuron_slice, "neuron_slice")
        if isinstance(chosen.chosen, int):
            chosen = Cut([chosen.chosen], "neuron_slice")
        model = model_of(self)
        later = Weights(model).later_scalars(target)
        parts, labels = [], []
        for i in range(target):
            neurons = components.Neurons(self, i, positions)
            results = neurons.results(chosen, reading, later[i])
            parts.append(results.movedim(-2, 0))
            numbers = chosen.apply(torch.arange(model.cfg.layers[i].mlp.d_mlp), 0)
            labels += [f"L{i}N{number}" for number in numbers.tolist()]
        return parts, labels
