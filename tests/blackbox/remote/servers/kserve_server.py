"""KServe's Python server around ONNX Runtime, as a user would write one."""

import sys
from pathlib import Path

import kserve
import onnxruntime
from kserve import InferOutput, InferRequest, InferResponse


class OnnxModel(kserve.Model):
    def __init__(self, name: str, path: Path) -> None:
        super().__init__(name)
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._count = path.with_suffix(".computed")
        self.ready = True

    async def get_input_types(self) -> list[dict]:
        (entry,) = self._session.get_inputs()
        return [{"name": entry.name, "datatype": "FP32", "shape": [-1, *entry.shape[1:]]}]

    async def get_output_types(self) -> list[dict]:
        (entry,) = self._session.get_outputs()
        return [{"name": "logits", "datatype": "FP32", "shape": [-1, entry.shape[1]]}]

    def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        images = payload.inputs[0].as_numpy()
        (logits,) = self._session.run(None, {self._session.get_inputs()[0].name: images})
        with self._count.open("a") as file:  # what the server itself knows to have computed
            file.write(f"{len(images)}\n")
        output = InferOutput("logits", list(logits.shape), "FP32")
        by_bytes = bool(payload.inputs[0].parameters and "binary_data_size" in payload.inputs[0].parameters)
        output.set_data_from_numpy(logits, binary_data=by_bytes)
        return InferResponse(payload.id, self.name, [output])


if __name__ == "__main__":
    port, model = sys.argv[1], Path(sys.argv[2])
    kserve.ModelServer(http_port=int(port), enable_grpc=False, workers=1).start([OnnxModel("digits", model)])
