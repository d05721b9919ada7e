"""As the Triton kernels."""

softmax_batch_invariant = object()
