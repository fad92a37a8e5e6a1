"""Run by the Python that has 3D Slicer's libraries: the plugin's own code on Slicer's own scene, against a server.

    python slicer_libraries_session.py PLUGIN URL SCRATCH STEPS

STEPS is JSON: a list of `{"extension": ..., "remote": ..., "paint": FOLDER}`. For each an annotator asks for the next
sample, paints what FOLDER holds under the image's name (leaves the segmentation as it came where it is null) and
submits it. What was seen goes to SCRATCH/seen.json.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import slicer as libraries
import vtk
from slicer_window import Window
from vtk.util.numpy_support import vtk_to_numpy


def prepare() -> Any:
    """What Slicer itself does at its start: conversion rules, and the node classes of its modules."""
    factory = libraries.vtkSegmentationConverterFactory.GetInstance()
    for rule in ("BinaryLabelmapToClosedSurface", "ClosedSurfaceToBinaryLabelmap"):
        factory.RegisterConverterRule(getattr(libraries, f"vtk{rule}ConversionRule")())
    scene = libraries.vtkMRMLScene()
    logics = [
        getattr(libraries, name)()
        for name in ("vtkSlicerSegmentationsModuleLogic", "vtkSlicerMarkupsLogic", "vtkSlicerVolumesLogic")
    ]
    for logic in logics:
        logic.SetMRMLScene(scene)

    slicer: Any = ModuleType("slicer")
    slicer.__dict__.update({name: value for name, value in vars(libraries).items() if name.startswith("vtk")})
    slicer.util = ModuleType("slicer.util")
    slicer.mrmlScene, slicer.keep = scene, logics
    slicer.modules = MagicMock()
    slicer.modules.segmentations.logic = lambda: logics[0]
    slicer.util.loadVolume = lambda path: logics[2].AddArchetypeVolume(path, Path(path).name.split(".")[0], 0)
    slicer.util.saveNode = save_node
    slicer.util.getNodesByClass = lambda kind: [
        scene.GetNthNodeByClass(index, kind) for index in range(scene.GetNumberOfNodesByClass(kind))
    ]
    return slicer


def read_labelmap(scene: Any, path: str) -> Any:
    node = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    storage = libraries.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetSingleFile(1)
    storage.SetFileName(path)
    assert storage.ReadData(node), path
    return node


def save_node(node: Any, path: str) -> None:
    is_segmentation = node.IsA("vtkMRMLSegmentationNode")
    kind = "vtkMRMLSegmentationStorageNode" if is_segmentation else "vtkMRMLVolumeArchetypeStorageNode"
    storage = getattr(libraries, kind)()
    storage.SetFileName(path)
    storage.SetUseCompression(1)
    assert storage.WriteData(node), path


def imaging(scene: Any) -> dict[str, Any]:
    """In the place of SimpleITK, which hands a label file over to Slicer's reader."""
    return {
        "vtkSegmentationCore": libraries,
        "SimpleITK": SimpleNamespace(ReadImage=str),
        "sitkUtils": SimpleNamespace(PushVolumeToSlicer=lambda image, name, className: read_labelmap(scene, image)),
    }


def paint(slicer: Any, node: Any, truth: Path) -> None:
    """Give the n-th segment what has the value n in a label file, cut to what is painted as brushes leave it."""
    labelmap = read_labelmap(slicer.mrmlScene, str(truth))
    values = vtk_to_numpy(labelmap.GetImageData().GetPointData().GetScalars())
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetIJKToRASMatrix(matrix)
    segmentation = node.GetSegmentation()
    for index in range(segmentation.GetNumberOfSegments()):
        threshold = vtk.vtkImageThreshold()
        threshold.SetInputData(labelmap.GetImageData())
        threshold.ThresholdBetween(index + 1, index + 1)
        threshold.SetInValue(1)
        threshold.SetOutValue(0)
        threshold.SetOutputScalarTypeToUnsignedChar()
        threshold.Update()
        image = slicer.vtkOrientedImageData()
        image.ShallowCopy(threshold.GetOutput())
        image.SetImageToWorldMatrix(matrix)
        extent = [0] * 6
        if slicer.vtkOrientedImageDataResample.CalculateEffectiveExtent(image, extent):
            slicer.vtkOrientedImageDataResample.CopyImage(image, image, extent)
        segment_id = segmentation.GetNthSegmentID(index)
        mode = slicer.vtkSlicerSegmentationsModuleLogic.MODE_REPLACE
        slicer.vtkSlicerSegmentationsModuleLogic.SetBinaryLabelmapToSegment(image, node, segment_id, mode)
    assert values.max() > 0
    slicer.mrmlScene.RemoveNode(labelmap)


def export(slicer: Any, window: Window, path: Path) -> dict[str, int]:
    """Write the segments as they lie on the volume; return the number of voxels of each."""
    node, segmentation = window.widget._segmentNode, window.widget._segmentNode.GetSegmentation()
    ids = vtk.vtkStringArray()
    for index in range(segmentation.GetNumberOfSegments()):
        ids.InsertNextValue(segmentation.GetNthSegmentID(index))
    labelmap = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    slicer.modules.segmentations.logic().ExportSegmentsToLabelmapNode(node, ids, labelmap, window.widget._volumeNode)
    save_node(labelmap, str(path))
    values = vtk_to_numpy(labelmap.GetImageData().GetPointData().GetScalars())
    slicer.mrmlScene.RemoveNode(labelmap)
    return {ids.GetValue(index): int((values == index + 1).sum()) for index in range(ids.GetNumberOfValues())}


def main(plugin: str, url: str, scratch: str, steps: str) -> None:
    folder = Path(scratch)
    slicer = prepare()
    window = Window(Path(plugin), slicer, imaging(slicer.mrmlScene), url, folder)
    window.widget.onClickFetchInfo()
    seen = []
    exists = os.path.exists
    for number, step in enumerate(json.loads(steps)):
        window.settings["MONAILabel/fileExtension"] = step["extension"]
        # A server on another machine: its files are not here.
        os.path.exists = (lambda path: str(path).startswith(scratch)) if step["remote"] else exists
        window.settings["MONAILabel/allowOverlappingSegments"] = step["extension"] == ".seg.nrrd"
        window.widget.updateGUIFromParameterNode()
        window.widget.onNextSampleButton()
        sample, volume = window.widget.current_sample, window.widget._volumeNode
        came = folder / f"came{number}.nrrd"
        record = {"id": sample["id"], "dimensions": volume.GetImageData().GetDimensions(), "came": str(came)}
        record["voxels"] = export(slicer, window, came)
        if step["paint"]:
            truth = next(Path(step["paint"]).glob(f"{sample['id']}.*"))
            paint(slicer, window.widget._segmentNode, truth)
        window.widget.onSaveLabel()
        seen.append({**record, "said": window.said()})
    (folder / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
