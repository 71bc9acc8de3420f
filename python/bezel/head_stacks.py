"""Heads as parts of the stream."""

from __future__ import annotations

from bezel import residual_components as components
from bezel.cache_slice import Cut, SliceInput
from bezel.component_reading import Labelled, Reading, reading_of, remainder, stacked
from bezel.decomposition import Decomposition, Stack, embed_name
from bezel.decomposition_checks import check_stream
from bezel.decomposition_inputs import Weights, layer_index, model_of, need, stream_name


class HeadStacks(Decomposition):
    """What single heads add to the stream."""

    def compute_head_results(self) -> None:
        """Puts attn.hook_result of every block into this cache, from hook_z and W_O.

        What was recorded stays as it is. These are raw results: they sum to attn.hook_out, before
        the post-norm; `stack_head_results` gives what heads add to the stream.

        Raises:
            UnknownHookError: With the names_filter that would have recorded hook_z.

        Example:
            >>> cache.compute_head_results()
            >>> cache["result", 3].shape  # [batch pos head d_model]
            torch.Size([1, 10, 4, 96])
        """
        blocks = [f"blocks.{i}.attn." for i in range(self.n_layers)]
        lacking = {i: at for i, at in enumerate(blocks) if at + "hook_result" not in self}
        need(self, [at + "hook_z" for at in lacking.values()], "compute_head_results")
        for i, at in lacking.items():
            result = components.raw_head_results(self, i).to(self[at + "hook_z"].dtype)
            self._values.put(
                at + "hook_result", result if self.has_batch_dim else result.unsqueeze(0)
            )

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: SliceInput = None,
        apply_ln: bool = False,
    ) -> Stack:
        """What every head of the blocks before `layer` adds to the stream that enters it.

        A head's result goes through the block's post-norm at its recorded scale and through the
        layer scalars up to there: the heads of a block sum to its part of `decompose_resid`.

        Args:
            layer: The first block that is left out; None and -1 leave none out.
            return_labels: Also "L0H0", "L0H1" …
            incl_remainder: End with the rest of the stream: the embedding, MLPs, per-layer
                embeddings.
            pos_slice: Positions to keep; an index drops the axis.
            apply_ln: See each part through the norm that it enters, at its recorded scale.

        Returns:
            [head batch pos d_model], block after block, at least float32; with return_labels also
            the labels.

        Raises:
            UnknownHookError: With the names_filter that would have recorded what is missing.
            DecompositionError: A hook changed a value between the heads and the stream.

        Example:
            >>> heads, labels = cache.stack_head_results(pos_slice=-1, return_labels=True)
            >>> scores = cache.logit_attrs(heads, " Paris", pos_slice=-1)  # [head batch]
            >>> labels[int(scores.argmax())]
            'L7H1'
        """
        index, positions = layer_index(self, layer), Cut(pos_slice)
        stream = stream_name(self, index)
        names = [name for i in range(index) for name in components.head_names(self, i)]
        need(self, [*names, stream] if incl_remainder else names, "stack_head_results")
        check_stream(self, embed_name(self), index, mlp_input=False)
        reading = reading_of(self, index, False, positions, apply_ln)
        parts, labels = self._heads(index, index, positions, reading)
        if incl_remainder:
            parts.append(remainder(self, parts, stream, positions, reading))
            labels.append("remainder")
        stack = stacked(parts, "stack_head_results")
        return (stack, labels) if return_labels else stack

    def _heads(self, n_blocks: int, target: int, positions: Cut, reading: Reading) -> Labelled:
        """Stacks [head …] of the first blocks, as they enter block `target`."""
        later = Weights(model_of(self)).later_scalars(target)
        parts, labels = [], []
        for i in range(n_blocks):
            results = components.head_results(self, i, positions).movedim(-2, 0)
            parts.append(reading.of_stack(results * later[i]))
            labels += [f"L{i}H{head}" for head in range(len(results))]
        return parts, labels
