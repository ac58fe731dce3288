"""Props of this module in a slice view of the application, over what the application draws."""

from __future__ import annotations

from collections.abc import Sequence


class ViewProps:
    """Keeps props in the topmost renderer of a slice view, and takes them back.

    Args:
        layout_manager: where views are; None without a main window.
        name: of the slice view.
    """

    def __init__(self, layout_manager, name: str):
        self._layout_manager, self._name = layout_manager, name
        self._renderer = None
        self._props: list = []

    @property
    def view(self):
        """The application's slice view; None where there is none."""
        widget = self._layout_manager and self._layout_manager.sliceWidget(self._name)
        return widget and widget.sliceView()

    def show(self, props: Sequence) -> None:
        """Show these in place of those shown before."""
        view = self.view
        if view is None or not (props or self._props):
            return
        # The application wraps its view anew at every call; what VTK draws it with stays the same object.
        renderer = _overlay_renderer(view)
        self._take_back()
        for prop in props:
            renderer.AddViewProp(prop)
        self._renderer, self._props = renderer, list(props)
        view.scheduleRender()

    def remove(self) -> None:
        """Take everything back."""
        self.show(())

    def _take_back(self) -> None:
        for prop in self._props:
            self._renderer.RemoveViewProp(prop)
        self._props = []


def _overlay_renderer(view):
    """The renderer that is drawn last."""
    renderers = view.renderWindow().GetRenderers()
    every = [renderers.GetItemAsObject(index) for index in range(renderers.GetNumberOfItems())]
    return max(every, key=lambda renderer: renderer.GetLayer())
