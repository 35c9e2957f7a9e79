"""A runtime of MLServer around ONNX Runtime, as a user would write one."""

from pathlib import Path

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class OnnxModel(MLModel):
    async def load(self) -> bool:
        path = Path(self.settings.parameters.uri)
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._count = path.with_suffix(".computed")
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = NumpyCodec.decode_input(payload.inputs[0])
        (logits,) = self._session.run(None, {self._session.get_inputs()[0].name: images})
        with self._count.open("a") as file:  # what the server itself knows to have computed
            file.write(f"{len(images)}\n")
        outputs = [NumpyCodec.encode_output("logits", logits)]
        return InferenceResponse(id=payload.id, model_name=self.name, model_version=self.version, outputs=outputs)
