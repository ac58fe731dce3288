"""SOPIRegistration: X-ray/CT (2D/3D) registration in 3D Slicer.

The doorway of the module: what is done is in SOPIRegistrationLib, the panel's widgets are in
Resources/UI/SOPIRegistration.ui.
"""

import sys
import threading
from pathlib import Path
from typing import Annotated, Union

import slicer
from slicer import (
    vtkMRMLLabelMapVolumeNode,
    vtkMRMLLinearTransformNode,
    vtkMRMLMarkupsClosedCurveNode,
    vtkMRMLMarkupsFiducialNode,
    vtkMRMLMarkupsROINode,
    vtkMRMLScalarVolumeNode,
    vtkMRMLSegmentationNode,
    vtkMRMLVectorVolumeNode,
)
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin
from SOPIRegistrationLib.dependencies import Dependencies, torch_utils
from SOPIRegistrationLib.errors import InputError
from SOPIRegistrationLib.layouts import add_layouts
from SOPIRegistrationLib.panel import choices

# What the Sample Data module shows under the picture, and over it.
SAMPLE_NAME = "Lumbar phantom CT and X-ray"
SAMPLE_CATEGORY = "SOPI Registration"
# Name of the threads that compute (registration.job), and how long a reload waits for those it has stopped.
_COMPUTATION, _LAST_WORDS_S = "SOPI registration", 5.0


class SOPIRegistration(ScriptedLoadableModule):
    """The module as the application lists it."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "SOPI X-ray/CT Registration"
        parent.categories = ["Registration"]
        parent.dependencies = []
        parent.contributors = ["The SOPI Registration developers"]
        parent.helpText = (
            "Finds where a patient lay when an X-ray was taken: registers a CT to one X-ray image (2D/3D "
            "registration), shows both fused and lets the pose be corrected by hand. Load a CT and an X-ray, "
            "give the C-arm's geometry, press Register; or try it with Load demo case."
        )
        parent.acknowledgementText = (
            "Follows the pose parameters and evaluation of the SOPI paper, see README. For research only; "
            "not a medical device."
        )
        slicer.app.connect("startupCompleted()", on_startup)


def on_startup():
    """Make the layouts known; add the demo case to the Sample Data module: computed, not downloaded."""
    import SampleData

    if slicer.app.layoutManager() is not None:
        add_layouts(slicer.app.layoutManager().layoutLogic().GetLayoutNode())
    icon = Path(__file__).parent / "Resources" / "Icons" / "SOPIRegistration.png"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=SAMPLE_CATEGORY,
        sampleName=SAMPLE_NAME,
        thumbnailFileName=str(icon),
        uris="",
        fileNames=SAMPLE_NAME,
        nodeNames=SAMPLE_NAME,
        customDownloader=lambda source: load_sample(),
    )


def load_sample(packages=None):
    """The demo case for the Sample Data module, which does not know of missing packages (Dependencies)."""
    packages = packages or dependencies(Path(__file__).parent / "Resources" / "requirements.txt")
    if not packages.ensure():
        return None
    return SOPIRegistrationLogic().loadDemoCase()


def dependencies(requirements):
    """The packages of a requirements file, installed by the application's pip after asking."""
    return Dependencies(
        requirements, install=slicer.util.pip_install, confirm=slicer.util.confirmOkCancelDisplay
    )


@parameterNodeWrapper
class SOPIRegistrationParameterNode:
    """What the panel is set to; saved with the scene.

    ``Union`` rather than ``|``: the wrapper of Slicer 5.10 knows no other.
    """

    ct: vtkMRMLScalarVolumeNode
    xray: Union[vtkMRMLScalarVolumeNode, vtkMRMLVectorVolumeNode, None]  # noqa: UP007
    frame: Annotated[int, WithinRange(0, 99999)] = 0
    polarity: Annotated[str, Choice(list(choices.POLARITIES.values()))] = "auto"
    mask: Union[vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode, None]  # noqa: UP007
    region: Union[  # noqa: UP007
        vtkMRMLSegmentationNode,
        vtkMRMLLabelMapVolumeNode,
        vtkMRMLMarkupsClosedCurveNode,
        vtkMRMLMarkupsROINode,
        None,
    ]
    regionLeftOut: bool = False
    joint: bool = False
    movedBody: str = ""
    transform: vtkMRMLLinearTransformNode
    drr: vtkMRMLScalarVolumeNode
    ctLandmarks: vtkMRMLMarkupsFiducialNode
    xrayLandmarks: vtkMRMLMarkupsFiducialNode
    initialiser: Annotated[str, Choice(list(choices.INITIALISERS.values()))] = "auto"
    method: Annotated[str, Choice(list(choices.METHODS.values()))] = "opt"
    content: Annotated[str, Choice(list(choices.CONTENTS.values()))] = "auto"
    overlayMode: Annotated[str, Choice(list(choices.OVERLAY_MODES.values()))] = "edges"
    mix: Annotated[float, WithinRange(0.0, 1.0)] = 0.5
    edgeStrength: Annotated[float, WithinRange(0.0, 1.0)] = 1.0
    blinkRate: Annotated[float, WithinRange(0.5, 10.0)] = 2.0
    localContrast: Annotated[float, WithinRange(0.0, 1.0)] = 0.0
    carmVisible: bool = True
    projected: bool = True
    timeLimit: Annotated[float, WithinRange(1.0, 600.0)] = 20.0


class SOPIRegistrationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel; opens without the dependencies and asks for them."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None
        self._parameterNode = None
        self._wrapper = None
        self._guiTag = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/SOPIRegistration.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = SOPIRegistrationLogic()
        self.dependencies = self.makeDependencies()
        self.ui.installButton.connect("clicked(bool)", self.onInstall)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.StartImportEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self._open()

    def _open(self):
        """Show the panel, or what it lacks to work."""
        missing = self.dependencies.summary()
        self.ui.dependencyFrame.visible = bool(missing)
        for name in ("stripFrame", "sectionsArea"):
            getattr(self.ui, name).enabled = not missing
        if missing:
            self.ui.dependencyLabel.text = (
                f"Registration needs Python packages that Slicer does not bring: {missing}."
            )
            return
        self.panel = self.makePanel()
        self.initializeParameterNode()
        self.panel.restore()

    def makeDependencies(self):
        """The packages that the panel needs."""
        return dependencies(self.resourcePath("requirements.txt"))

    def makePanel(self):
        """The panel on the widgets, once all that it needs is installed."""
        from SOPIRegistrationLib.panel.registration_panel import RegistrationPanel

        return RegistrationPanel(self.ui, ensure_torch=lambda: self.dependencies.ensure_torch(torch_utils()))

    def onInstall(self):
        from SOPIRegistrationLib.panel.messages import errors_shown

        with errors_shown():
            self.dependencies.ensure()
        self._open()

    def cleanup(self):
        self.setParameterNode(None)
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()
            self.panel = None

    def enter(self):
        self.initializeParameterNode()

    def onSceneStartClose(self, caller, event):
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller, event):
        self.initializeParameterNode()
        if self.panel is not None:
            self.panel.restore()

    def initializeParameterNode(self):
        if self.panel is None:
            return
        parameters = self.logic.getParameterNode()
        if self._wrapper is None or self._wrapper.parameterNode is not parameters.parameterNode:
            # Kept while its scene is closed: Python's collector would take one that only the observers of its
            # node refer to for garbage, and the observers with it.
            self._wrapper = parameters
        else:
            # It read its values before a loaded scene had their nodes.
            self._wrapper.parameterNode.Modified()
        self.setParameterNode(self._wrapper)

    def setParameterNode(self, parameterNode):
        known = self._parameterNode
        if (
            known is not None
            and parameterNode is not None
            and known.parameterNode is parameterNode.parameterNode
        ):
            return
        if known is not None:
            known.disconnectGui(self._guiTag)
        self._parameterNode = parameterNode
        if parameterNode is not None:
            # connectGui returns no tag: what it connected would write into the next scene's parameters.
            named = {widget.property("SlicerParameterName"): widget for widget in vars(self.ui).values()}
            bound = {name: widget for name, widget in named.items() if name}
            self._guiTag = parameterNode.connectParametersToGui(bound)
        if self.panel is not None:
            self.panel.use(parameterNode)

    def onReload(self):
        """Reload the library too, not the module's file alone."""
        self.cleanup()
        # A computation that was just stopped may be importing: what it imports must not vanish meanwhile.
        for thread in threading.enumerate():
            if thread.name == _COMPUTATION:
                thread.join(_LAST_WORDS_S)
        for name in [name for name in list(sys.modules) if name.partition(".")[0] == "SOPIRegistrationLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class SOPIRegistrationLogic(ScriptedLoadableModuleLogic):
    """Registration for scripts and for the panel; needs no panel itself."""

    def getParameterNode(self):
        node = super().getParameterNode()
        for name in choices.OFFERED:
            stored = node.GetParameter(name)
            known = choices.name_stored(name, stored)
            if known != stored:
                node.SetParameter(name, known)
        for former, names in choices.FORMER.items():
            if node.HasParameter(former):
                for name in names:
                    node.SetParameter(name, node.GetParameter(former))
                node.UnsetParameter(former)
        return SOPIRegistrationParameterNode(node)

    def loadDemoCase(self, seed=1, case=None):
        """Make a phantom CT and a simulated X-ray of it in the scene, and choose them as inputs.

        Args:
            seed: which phantom and pose.
            case: a DemoCase made before.

        Returns:
            Nodes ``ct`` and ``xray``, their ``geometry``, and ``case`` with the pose that is to be found.
        """
        from SOPIRegistrationLib.scene import RegistrationState, load_demo_case

        nodes = load_demo_case(slicer.mrmlScene, seed, case)
        parameters = self.getParameterNode()
        RegistrationState(parameters.parameterNode).geometry = nodes.geometry
        parameters.ct, parameters.xray = nodes.ct, nodes.xray
        return nodes

    def register(
        self,
        ctNode,
        xrayNode,
        geometry,
        maskNode=None,
        transformNode=None,
        init="auto",
        refine="opt",
        content="auto",
        frame=None,
        camera=None,
        polarity="auto",
        progress=None,
        otherXrays=(),
        regionNode=None,
        regionLeftOut=False,
        bodies=(),
        materials=None,
        motions=None,
        timeLimit=20.0,
        weights=None,
    ):
        """Register a CT, or several bodies, to an X-ray; the window is kept alive until it returns.

        What is not given counts as not chosen, whatever the panel had.

        Args:
            ctNode: CT volume, HU; None where models are registered without one.
            xrayNode: X-ray volume; it is moved onto the C-arm's detector plane.
            geometry: path of a geometry JSON, name of a preset, a CArmGeometry, or None for the X-ray's DICOM
                tags.
            maskNode: segmentation or label map of the bones.
            transformNode: output, CT to where the X-ray shows it; made if None.
            init: "auto", "search", "nominal", "current" (where the transforms hold the bodies) or a 4x4
                T_lps_to_camera.
            refine: "opt", "sopi", "sopi+opt" or "none".
            content: "auto", "body" or "bone", what the DRR is made of.
            frame: which frame of a multi-frame X-ray, counted from 1.
            camera: name of the camera that took it, where the geometry has several; the one that the X-ray's
                name holds unless given.
            polarity: "auto", "bone-dark" or "bone-bright", what bones are in the X-ray as stored.
            progress: called in this thread with (stage, fraction); a true answer stops.
            otherXrays: further X-rays of a geometry with several cameras, registered jointly: nodes, whose
                names hold their camera's, or (node, camera), or (node, camera, frame).
            regionNode: segmentation, label map, ROI or closed curve of what of the X-ray is compared.
            regionLeftOut: compare all but the region.
            bodies: nodes that move by themselves: a segmentation of the CT (its visible segments), other CTs,
                models.
            materials: what models are made of, by the body's name: {"Femur": "CoCr"}.
            motions: by the body's name "free", "fixed", or the body that holds it: {"Tibia": "Femur"}.
            timeLimit: seconds for which an automatic initialisation may go on searching.
            weights: files of weights by the network's name, over the installed ones.

        Returns:
            The RegistrationResult, of several bodies the BodiesResult. Transforms are in the parameter node
            (``transform``) and under it.

        Raises:
            InputError: an input is unusable; nothing in the scene has changed.
        """
        from SOPIRegistrationLib.panel.scripted_case import Chosen

        parameters = self.getParameterNode()
        chosen = Chosen(
            {
                "ct": ctNode,
                "xray": xrayNode,
                "mask": maskNode,
                "frame": frame or 0,
                "polarity": _known_polarity(polarity),
                "transform": transformNode or parameters.transform,
                "joint": bool(otherXrays),
                "region": regionNode,
                "regionLeftOut": regionLeftOut,
                "timeLimit": float(timeLimit),
            },
            geometry,
            camera,
            bodies,
            materials or {},
            motions or {},
            otherXrays,
        )
        with self._case(progress) as case:
            case.prepare(chosen)
            return case.register(init, refine, content, weights)

    def track(self, progress=None):
        """Follow what was registered through the frames of its X-rays, from where it is in the frame shown.

        The panel's inputs are those of the last registration; poses appear as Sequences beside the X-rays'.

        Args:
            progress: called in this thread with (stage, fraction); a true answer stops.

        Returns:
            The Track of each body by its name.

        Raises:
            InputError: an X-ray has a single frame; the X-rays show different frames.
            Cancelled: it was stopped; the scene is as it was.
        """
        with self._case(progress) as case:
            case.prepare()
            return case.track()

    def solveLandmarks(self, ctPoints, xrayPoints):
        """Put the CT that is chosen to where pairs of landmarks say.

        Args:
            ctPoints: point list on the CT; it moves with it from now on.
            xrayPoints: point list on the X-ray, in the same order.

        Returns:
            The LandmarkPose, with its residuals.

        Raises:
            InputError: fewer than four pairs, or they do not determine a pose.
        """
        with self._case() as case:
            case.prepare()
            return case.solve(ctPoints, xrayPoints)

    def exportResult(self, folder):
        """Write the registration shown: result.json, transforms (ITK) and overlay.png; returns the paths.

        Raises:
            InputError: nothing was registered.
        """
        with self._case() as case:
            case.prepare()
            return case.write(Path(folder))

    def _case(self, progress=None):
        from SOPIRegistrationLib.panel.scripted_case import ScriptedCase

        return ScriptedCase(self.getParameterNode(), progress)


def _known_polarity(polarity):
    known = choices.POLARITIES.values()
    if polarity not in known:
        raise InputError(f"unknown polarity '{polarity}': use one of {', '.join(known)}")
    return polarity


class SOPIRegistrationTest(ScriptedLoadableModuleTest):
    """Reload and Test: what a user of this application would see, checked one by one."""

    case = None

    def setUp(self):
        slicer.mrmlScene.Clear()

    def runTest(self):
        self.setUp()
        self.test_all_that_a_user_sees()

    def test_all_that_a_user_sees(self):
        from SOPIRegistrationLib.panel.self_test import SelfTest

        self.delayDisplay("Testing the module: the demo case, registered, moved, saved, cancelled")
        slicer.util.selectModule("SOPIRegistration")
        test = SelfTest(slicer.modules.SOPIRegistrationWidget, SAMPLE_CATEGORY, case=self.case)
        test.run()
        assert test.passed, "; ".join(str(check) for check in test.checks if not check.passed)
