"""Takes a study of the plug-in the whole way in this process, and prints the result of each step as JSON.

It is run by an interpreter that has the plug-in: `whole_way.py STUDY_FILE`, in the folder that is to hold the study.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from command_line import run


def main(study_file: str) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    import nasopt
    from nasopt.measurement.measured.latency import measure_latency

    measure_latency.__kwdefaults__["time_budget_s"] = 0.2
    steps: dict[str, Any] = {}

    def step(name: str, *arguments: str) -> Any:
        result = run(*arguments)
        steps[name] = {"code": result.code, "out": result.out, "err": result.err}
        return result.out

    step("methods", "methods")
    step("create", "study", "create", study_file)
    step("optimize", "study", "optimize", "means", "--n-trials", "2")
    step("resume", "study", "optimize", "means")
    step("table", "study", "trials", "means")
    step("trials", "study", "trials", "means", "-f", "json")
    step("controls", "study", "controls", "means", "--random-masks", "1")
    front = json.loads(step("pareto", "study", "pareto", "means", "-f", "json"))
    found = next(trial["number"] for trial in front if trial["params"])
    step("export", "study", "export", "means", "--trial", str(found), "--to", "exported")

    model, tokenizer = nasopt.load("exported")
    inputs = tokenizer(["the film was good", "a sad story"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        by_name = AutoModelForSequenceClassification.from_pretrained("exported", dtype="auto").eval()
        assert torch.equal(by_name(**inputs).logits, logits)
    steps["load"] = {"class": type(model).__name__, "logits": logits.float().tolist()}
    print(json.dumps(steps))


if __name__ == "__main__":
    main(sys.argv[1])
