"""Olive's quantizing passes, in an environment of its own (--olive-python); the session is tuned as every peer's is.

https://microsoft.github.io/Olive/features/passes/quant_onnx.html
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from rivals import Task, Way, on_onnxruntime

VARIANTS: dict[str, dict[str, Any]] = {
    "static": {"type": "OnnxStaticQuantization", "per_channel": True},
    "static, uint8": {"type": "OnnxStaticQuantization", "activation_type": "uint8", "precision": "uint8"},
    "dynamic": {"type": "OnnxDynamicQuantization"},
}


def prepare(task: Task, **settings: Any) -> list[Way]:
    if not task.olive:
        raise ValueError("Olive needs an environment of its own: name its Python with --olive-python")
    out = Path(task.out)
    stored = {"type": "peer_samples", "params": {"place": task.calibrate}}
    script = str(Path(__file__).parent / "_olive_data.py")
    config = {
        "input_model": {"type": "ONNXModel", "model_path": task.onnx},
        "systems": {
            "local": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": [{"name": "samples", "user_script": script, "load_dataset_config": stored}],
        "passes": {"quantize": settings | ({"data_config": "samples"} if "Static" in settings["type"] else {})},
        "host": "local",
        "target": "local",
        "cache_dir": str(out / "cache"),
        "output_dir": str(out / "olive"),
    }
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # nothing of ours in its environment
    command = [task.olive, "-m", "olive", "run", "--config", "config.json", "--disable_telemetry"]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False, env=own, timeout=task.limit_s)
    said = (done.stdout + done.stderr).strip()
    print(said)
    found = sorted((out / "olive").rglob("*.onnx"))
    if done.returncode or not found:
        raise RuntimeError(f"olive run ended with {done.returncode}: {(said or 'it said nothing').splitlines()[-1]}")
    return on_onnxruntime(task, found[0])
