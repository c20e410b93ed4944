"""An optimizer wrapper that skips bad batches and clips by group."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="orrery")
class GuardedOptimizer(keras.optimizers.Optimizer):
    """Skips batches that are not finite and clips groups of variables apart.

    A batch whose loss or gradients hold a NaN or an infinity leaves every
    weight and every variable of the inner optimizer, its iteration counter
    and so its learning rate included, bit-identical; `skipped` counts it.
    Otherwise the gradients of each group are scaled by
    `min(1, clip_norm / ||g||)`, `||g||` the norm over the group alone, so
    that a probe trained beside a model never changes the model's step.

    A gradient norm that overflows float32 (above 1e19) counts as not finite.
    The check costs nothing beyond the norms: their sum of squares is finite
    exactly if all gradients are. A non-finite loss is multiplied into the
    gradients through `scale_loss`, so it is caught even where the gradient of
    an infinite loss happens to be finite.

    In a training loop of one's own, use `stateless_apply` on JAX and `apply`
    on the other backends, as `fit` does.

    Args:
        inner_optimizer: The `keras.optimizers.Optimizer` that updates the
            weights. Its own clipping and loss scaling must be off.
        clip_norm: Float, largest gradient norm of a group, or None to clip
            nothing. Defaults to `0.5`.
        separate: Sequence of strings. Variables whose path contains the i-th
            string form a group of their own (the first match counts); all
            others form one group. Defaults to `("koopman_operator",)`.
        decay_matrices_only: Boolean. Whether weight decay of the inner
            optimizer leaves out every variable with fewer than two axes
            (biases, norm scales). A rule instead of a list of variables, so
            that it survives saving and loading. Defaults to `True`.
        name: String or None, name of the optimizer. Defaults to `None`.

    Raises:
        TypeError: If `inner_optimizer` is not a Keras optimizer or `separate`
            is a single string.
        ValueError: If `clip_norm` is not positive or `inner_optimizer` clips
            or scales the loss itself.

    Example:
    >>> optimizer = GuardedOptimizer(keras.optimizers.Adam(1e-3), clip_norm=1.0)
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile(optimizer, "mse")
    >>> x = keras.ops.ones((4, 3))
    >>> _ = model.fit(x, keras.ops.ones((4, 1)) * float("nan"), verbose=0)
    >>> int(optimizer.skipped), int(optimizer.iterations)
    (1, 0)

    Reference:
        [Pascanu et al., 2012](https://arxiv.org/abs/1211.5063) (clipping).
    """

    def __init__(
        self,
        inner_optimizer,
        clip_norm=0.5,
        separate=("koopman_operator",),
        decay_matrices_only=True,
        name=None,
    ):
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                "`inner_optimizer` must be a keras.optimizers.Optimizer. "
                f"Received: {inner_optimizer!r}"
            )
        for argument in (
            "clipnorm",
            "clipvalue",
            "global_clipnorm",
            "loss_scale_factor",
        ):
            if getattr(inner_optimizer, argument, None) is not None:
                raise ValueError(
                    f"`inner_optimizer` must have {argument}=None, since "
                    "GuardedOptimizer clips the unscaled gradients by group. "
                    f"Received: {argument}="
                    f"{getattr(inner_optimizer, argument)}"
                )
        if isinstance(separate, str):
            raise TypeError(
                "`separate` must be a sequence of strings. Received: "
                f"{separate!r}"
            )
        if clip_norm is not None and not clip_norm > 0:
            raise ValueError(
                f"`clip_norm` must be positive or None. Received: {clip_norm}"
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.clip_norm = clip_norm
        self.separate = tuple(separate)
        self.decay_matrices_only = decay_matrices_only
        self.skipped = self.add_variable(
            shape=(), dtype="int32", aggregation="none", name="skipped"
        )

    def build(self, variables):
        if self.built:
            return
        if self.decay_matrices_only:
            self.inner_optimizer.exclude_from_weight_decay(
                var_list=[v for v in variables if len(v.shape) < 2]
            )
        self.inner_optimizer.build(variables)
        super().build(variables)

    @property
    def variables(self):
        return self._variables + self.inner_optimizer.variables

    def scale_loss(self, loss):
        finite = ops.isfinite(loss)
        return loss * ops.where(finite, ops.ones_like(loss), float("nan"))

    def apply(self, grads, trainable_variables=None):
        variables = self._known_variables(trainable_variables)
        grads, finite = self._clip_groups(grads, variables)

        def update():
            self.inner_optimizer.apply(grads, variables)

        def skip():
            self.skipped.assign_add(1)

        ops.cond(finite, update, skip)

    def stateless_apply(self, optimizer_variables, grads, trainable_variables):
        grads, finite = self._clip_groups(grads, self._trainable_variables)
        # LossScaleOptimizer hands over variables instead of their values.
        values = [ops.convert_to_tensor(v) for v in optimizer_variables]
        count = len(self._variables)
        own, inner = values[:count], values[count:]
        updated, updated_inner = self.inner_optimizer.stateless_apply(
            inner, grads, trainable_variables
        )

        def select(new, old):
            return [
                ops.where(finite, a, b) for a, b in zip(new, old, strict=True)
            ]

        index = [v is self.skipped for v in self._variables].index(True)
        own[index] = own[index] + ops.cast(~finite, own[index].dtype)
        return (
            select(updated, trainable_variables),
            own + select(updated_inner, inner),
        )

    def _known_variables(self, variables):
        if variables is None:
            variables = self._trainable_variables
        variables = list(variables)
        if not self.built:
            with keras.name_scope(self.name):
                self.build(variables)
        return variables

    def _group(self, variable):
        for index, part in enumerate(self.separate):
            if part in variable.path:
                return index
        return len(self.separate)

    def _clip_groups(self, grads, variables):
        """Returns the clipped gradients and whether all were finite."""
        grads = list(grads)
        squares = {}
        for i, (grad, variable) in enumerate(
            zip(grads, variables, strict=True)
        ):
            if grad is None:
                continue
            if hasattr(grad, "dense_shape"):
                # TensorFlow's slices of an embedding: repeated rows must be
                # summed before anything is squared.
                grad = grads[i] = ops.zeros(variable.shape, grad.dtype) + grad
            square = ops.sum(ops.square(ops.cast(grad, "float32")))
            group = self._group(variable)
            squares[group] = squares.get(group, 0.0) + square
        finite = ops.isfinite(sum(squares.values(), ops.zeros(())))
        if self.clip_norm is None:
            return grads, finite
        scales = {
            group: ops.minimum(
                1.0, self.clip_norm / ops.sqrt(ops.maximum(square, 1e-30))
            )
            for group, square in squares.items()
        }
        clipped = [
            None
            if grad is None
            else grad * ops.cast(scales[self._group(variable)], grad.dtype)
            for grad, variable in zip(grads, variables, strict=True)
        ]
        return clipped, finite

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    # Keras saves the inner optimizer beside this one: only the rest is here.
    def save_own_variables(self, store):
        for index, variable in enumerate(self._variables):
            store[str(index)] = ops.convert_to_numpy(variable)

    def load_own_variables(self, store):
        if len(store.keys()) != len(self._variables):
            raise ValueError(
                f"GuardedOptimizer has {len(self._variables)} variables beside "
                f"the inner optimizer's. Received: {len(store.keys())}"
            )
        for index, variable in enumerate(self._variables):
            variable.assign(store[str(index)])

    def get_config(self):
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(
                self.inner_optimizer
            ),
            "clip_norm": self.clip_norm,
            "separate": list(self.separate),
            "decay_matrices_only": self.decay_matrices_only,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["inner_optimizer"] = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        return cls(**config)
