"""Named architectures, and trained models by name: what models share."""

from .registry import list_models, load


class Presets:
    """Gives a `keras.Model` the constructor `from_preset`."""

    presets: dict[str, dict] = {}

    @classmethod
    def from_preset(cls, name, load_weights=True, **changes):
        """A named architecture, with its trained weights if asked for.

        Args:
            name: str, one of `presets`; or, for trained weights, the folder
                of a saved model or a `.keras` file.
            load_weights: bool. `False` builds the architecture afresh.
            **changes: arguments of the constructor that replace the preset's;
                only with `load_weights=False`.

        Returns:
            A model of this class.

        Raises:
            ValueError: unknown name, changes to a trained model, or a saved
                model of another class.
        """
        if load_weights:
            if changes:
                raise ValueError(
                    "A trained model cannot be changed: use "
                    f"`load_weights=False`. Received: {sorted(changes)}"
                )
            if name in cls.presets and name not in list_models():
                raise ValueError(
                    f"`name` is the preset {name!r}, of which there are no "
                    "trained weights: use `load_weights=False`"
                )
            model = load(name)
            if not isinstance(model, cls):
                raise ValueError(
                    f"`name` must be a saved {cls.__name__}. Received: "
                    f"{str(name)!r}, a {type(model).__name__}"
                )
            return model
        if name not in cls.presets:
            raise ValueError(
                f"`name` must be one of {sorted(cls.presets)}. "
                f"Received: {name!r}"
            )
        return cls(**{**cls.presets[name], **changes})
