"""What bfloat16, int8 and ONNX cost a trained model in perplexity.

    python benchmarks/precision.py saved_models/koopman_lm_small

Validation perplexity of the same weights in float32, under `mixed_bfloat16`,
and after `quantize("int8")`; and the largest difference between the logits of
the model and of its ONNX export run by onnxruntime (where the backend exports).
"""

import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "recipes"))

import _command_line  # noqa: E402

ONNX_BLOCKS = 8


@_command_line.plain_errors
def main(argv=None):
    flags = _command_line.parser(__doc__.splitlines()[0], trains=False)
    flags.add_argument("model", help="saved model, run folder or .keras file")
    flags.add_argument("--dataset", default="wikitext2")
    arguments = _command_line.parse(flags, argv)
    import keras
    import orrery
    from _measure import results_file, write_csv
    from _scoring import check_vocabulary, locate
    from _training import perplexity
    from orrery.datasets import load_text

    path, folder = locate(arguments.model)
    data = load_text(
        arguments.dataset, vocabulary=folder, data_dir=arguments.data_dir
    )
    limit = 64 if arguments.smoke else None
    x, y = (array[:limit] for array in data.blocks("valid"))
    model = orrery.load(path)
    check_vocabulary(model, data.vocabulary)
    rows = []

    def add(precision, model):
        found = perplexity(model, x, y, arguments.batch_size)
        exact = rows[0]["perplexity"] if rows else found
        rows.append(
            {
                "backend": arguments.backend,
                "precision": precision,
                "perplexity": found,
                "change": found / exact - 1,
                "largest_logit_difference": "",
            }
        )
        print(rows[-1], flush=True)

    add("float32", model)
    difference = onnx_difference(model, x[:ONNX_BLOCKS])
    if difference is not None:
        rows[0]["largest_logit_difference"] = difference
        print(f"ONNX differs by {difference:.1e}", flush=True)
    low = type(model).from_config(
        {**model.get_config(), "dtype": "mixed_bfloat16"}
    )
    low.build()
    low.set_weights(model.get_weights())
    add("mixed_bfloat16", low)
    model.quantize("int8")
    add("int8", model)
    packages = ["keras", arguments.backend]
    path = results_file(
        f"precision_{pathlib.Path(arguments.model).name}",
        packages,
        arguments.out,
        smoke=arguments.smoke,
    )
    write_csv(path, rows)
    print(f"Wrote {path} with Keras {keras.__version__}")


def onnx_difference(model, x):
    """Against onnxruntime on the same ids, or `None` without an exporter."""
    import keras
    import numpy as np

    if keras.backend.backend() == "torch":
        print("No ONNX: PyTorch's exporter does not know RMSNorm")
        return None
    try:
        import onnxruntime

        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "model.onnx")
            model.export(path, format="onnx", verbose=False, length=x.shape[1])
            session = onnxruntime.InferenceSession(str(path))
            found = session.run(None, {session.get_inputs()[0].name: x})[0]
    except ImportError as error:
        print(f"No ONNX: {error}")
        return None
    expected = keras.ops.convert_to_numpy(model(x))
    return float(np.abs(found - expected).max())


if __name__ == "__main__":
    main()
