"""What the plugin uses of Slicer's scene, for where Slicer's libraries are not installed: files and names."""

# ruff: noqa: N802 - the names are Qt's and Slicer's

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock


class Scene:
    """A scene whose nodes are files and names; for where Slicer's libraries are not installed."""

    StartCloseEvent, EndCloseEvent, NodeAddedEvent = "start close", "end close", "node added"

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self._observers: list[tuple[str, Callable[[Any, Any], None]]] = []

    def AddObserver(self, event: str, callback: Callable[[Any, Any], None]) -> None:
        self._observers.append((event, callback))

    def _tell(self, event: str) -> None:
        for wanted, callback in self._observers:
            if wanted == event:
                callback(self, event)

    def AddNode(self, node: Any) -> Any:
        self.nodes.append(node)
        self._tell(self.NodeAddedEvent)
        return node

    def AddNewNodeByClass(self, kind: str) -> Any:
        return self.AddNode({"vtkMRMLSegmentationNode": Segmentation}.get(kind, MagicMock)())

    def RemoveNode(self, node: Any) -> None:
        self.nodes.remove(node)

    def GetFirstNodeByClass(self, kind: str) -> Any:
        return next((node for node in self.nodes if isinstance(node, Volume)), None)

    def Clear(self, singletons: int) -> None:
        self._tell(self.StartCloseEvent)
        self.nodes = []
        self._tell(self.EndCloseEvent)

    def __getattr__(self, name: str) -> MagicMock:
        return MagicMock()


class Volume(MagicMock):
    """A volume that was loaded: its file."""

    def __init__(self, path: str = "", **named: Any) -> None:
        super().__init__(**named)
        self.path = path
        self.name_shown = Path(path).name.split(".")[0]

    def GetName(self) -> str:
        return self.name_shown

    def SetName(self, name: str) -> None:
        self.name_shown = name

    def _get_child_mock(self, **named: Any) -> MagicMock:
        return MagicMock(**named)


class Segmentation(MagicMock):
    """A segmentation node: the names of its segments, and the label file that was imported last."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.names: list[str] = []
        self.imported: tuple[str, list[str]] | None = None

    def _get_child_mock(self, **named: Any) -> MagicMock:
        return MagicMock(**named)

    def GetSegmentation(self) -> Any:
        return self

    def GetNumberOfSegments(self) -> int:
        return len(self.names)

    def GetNthSegmentID(self, index: int) -> str:
        return self.names[index]

    def GetSegmentIdBySegmentName(self, name: str) -> str:
        return name if name in self.names else ""

    def GetSegment(self, segment_id: str) -> Any:
        return MagicMock(GetName=lambda: segment_id)

    def AddEmptySegment(self, segment_id: str, name: str, color: Any) -> None:
        self.names.append(name)


class Strings(list[str]):
    """vtkStringArray."""

    def InsertNextValue(self, text: str) -> None:
        self.append(text)


def without_slicer(drawing: Callable[[str, list[str]], Path]) -> tuple[ModuleType, dict[str, Any]]:
    """Modules for `Window` where Slicer's libraries are not installed.

    `drawing` stands for the annotator: given the path of the image and the names of the segments, it returns a label
    file that is sent in the place of what Slicer would export.
    """
    slicer: Any = ModuleType("slicer")
    slicer.util = ModuleType("slicer.util")
    slicer.mrmlScene = Scene()
    slicer.vtkMRMLSegmentEditorNode = slicer.vtkMRMLMarkupsNode = slicer.vtkOrientedImageData = MagicMock()
    logic = MagicMock()

    def import_label(label: str, node: Segmentation, names: Strings) -> bool:
        node.imported = (label, list(names))
        node.names += [name for name in names if name not in node.names]
        return True

    def export(node: Segmentation, names: Strings, labelmap: Any, volume: Volume) -> bool:
        labelmap.file = drawing(volume.path, list(names))
        return True

    logic.ImportLabelmapToSegmentationNode = import_label
    logic.ExportSegmentsToLabelmapNode = export
    slicer.modules = MagicMock()
    slicer.modules.segmentations.logic = lambda: logic
    slicer.util.loadVolume = lambda path: slicer.mrmlScene.AddNode(Volume(path))
    slicer.util.saveNode = lambda node, path: shutil.copyfile(node.file, path)
    slicer.util.getNodesByClass = lambda kind: [node for node in slicer.mrmlScene.nodes if isinstance(node, Volume)]
    others = {
        "vtk": MagicMock(vtkStringArray=Strings, mutable=str),
        "vtkSegmentationCore": MagicMock(),
        "SimpleITK": SimpleNamespace(ReadImage=_read),
        "sitkUtils": SimpleNamespace(PushVolumeToSlicer=lambda image, name, className: _push(slicer, image)),
    }
    return slicer, others


def _read(path: str) -> str:
    """The file as it is; the plugin deletes it when it is imported."""
    kept = Path(path).with_name(f"kept-{Path(path).name}")
    shutil.copyfile(path, kept)
    return str(kept)


def _push(slicer: Any, image: str) -> str:
    slicer.mrmlScene.AddNode(image)
    return image
