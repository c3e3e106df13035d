"""Export by way of `torch.export`: the graph is captured first, then run node by node under the recorder."""

from typing import Any

import torch

from workloads.export.recorder import Recorder
from workloads.zoo.registry import Stage


class _Walk(torch.fx.Interpreter):
    """Runs a captured graph and tells the recorder which module each node came from."""

    def __init__(self, graph: torch.fx.GraphModule, recorder: Recorder, stage: str) -> None:
        super().__init__(graph)
        self.recorder, self.stage = recorder, stage

    def run_node(self, node: torch.fx.Node) -> Any:
        stack = node.meta.get("nn_module_stack") or {"": ("", None)}
        path = [*stack.values()][-1][0]
        self.recorder.paths = [".".join(filter(None, (self.stage, path)))]
        return super().run_node(node)


def run_captured(recorder: Recorder, stage: Stage) -> None:
    """Capture a stage's module for its inputs and record the graph's operators, with the original module paths."""
    with torch.inference_mode(False), torch.no_grad():
        program = torch.export.export(stage.module, stage.args, dict(stage.kwargs))
    graph = program.module()
    with recorder:
        _Walk(graph, recorder, stage.name).run(*stage.args, *stage.kwargs.values())
