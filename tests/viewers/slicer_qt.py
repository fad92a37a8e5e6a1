"""What the plugin uses of Qt, without a screen: widgets that remember what they show, by Qt's rules."""

# ruff: noqa: N802 - the names are Qt's and Slicer's

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any
from unittest.mock import MagicMock


class ComboBox:
    """What the plugin uses of QComboBox, with Qt's rules: the first item added is selected; a change is signalled."""

    def __init__(self) -> None:
        self._items: list[str] = []
        self._listeners: list[Callable[..., object]] = []
        self._blocked = False
        self._typed: str | None = None
        self.currentIndex = -1
        self.tooltips: dict[int, str] = {}

    def addItem(self, *label: Any) -> None:
        self._items.append(next(part for part in label if isinstance(part, str)))
        if len(self._items) == 1:
            self.setCurrentIndex(0)

    def addItems(self, texts: list[str]) -> None:
        for text in texts:
            self.addItem(text)

    def clear(self) -> None:
        self._items = []
        self.setCurrentIndex(-1)

    @property
    def count(self) -> int:
        return len(self._items)

    def itemText(self, index: int) -> str:
        return self._items[index] if 0 <= index < len(self._items) else ""

    def findText(self, text: str) -> int:
        return self._items.index(text) if text in self._items else -1

    def setCurrentIndex(self, index: int) -> None:
        if index != self.currentIndex:
            self.currentIndex, self._typed = index, None
            if not self._blocked:
                for listener in self._listeners:
                    listener(*([index] if signature(listener).parameters else []))  # as PythonQt does

    @property
    def currentText(self) -> str:
        return self.itemText(self.currentIndex) if self._typed is None else self._typed

    @currentText.setter
    def currentText(self, text: str) -> None:
        self.setCurrentText(text)

    def setCurrentText(self, text: str | None) -> None:
        if text in self._items:
            self.setCurrentIndex(self._items.index(text))
        else:
            self._typed = text or ""

    def setItemData(self, index: int, value: str, role: object) -> None:
        self.tooltips[index] = value

    def blockSignals(self, block: bool) -> bool:
        before, self._blocked = self._blocked, block
        return before

    def connect(self, signal: str, listener: Callable[..., object]) -> None:
        self._listeners.append(listener)

    def lineEdit(self) -> MagicMock:
        return MagicMock()

    def setToolTip(self, text: str) -> None: ...

    def setEnabled(self, enabled: object) -> None: ...


class CheckBox(MagicMock):
    checked = False

    def setChecked(self, checked: bool) -> None:
        self.checked = checked


class Item:
    """A cell of a table."""

    def __init__(self, text: str) -> None:
        self._text = text

    def text(self) -> str:
        return self._text

    def flags(self) -> int:
        return 0

    def setFlags(self, flags: int) -> None: ...


class Table:
    """The table of options."""

    def __init__(self) -> None:
        self.clear()
        self.rowCount = 0

    def clear(self) -> None:
        self._items: dict[tuple[int, int], Item] = {}
        self._widgets: dict[tuple[int, int], Any] = {}

    def setRowCount(self, count: int) -> None:
        self.rowCount = count

    def setItem(self, row: int, column: int, item: Item) -> None:
        self._items[row, column] = item

    def item(self, row: int, column: int) -> Item | None:
        return self._items.get((row, column))

    def setCellWidget(self, row: int, column: int, widget: Any) -> None:
        self._widgets[row, column] = widget

    def cellWidget(self, row: int, column: int) -> Any:
        return self._widgets.get((row, column))

    def setColumnCount(self, count: int) -> None: ...

    def setHorizontalHeaderLabels(self, labels: list[str]) -> None: ...

    def setColumnWidth(self, column: int, width: int) -> None: ...

    def shown(self) -> dict[str, Any]:
        """Key and cell of each row: text, the state of a check box, or the choices of a combo box."""
        rows: dict[str, Any] = {}
        for row in range(self.rowCount):
            widget = self.cellWidget(row, 1)
            item = self._items.get((row, 1))
            if isinstance(widget, ComboBox):
                value: Any = [widget.itemText(index) for index in range(widget.count)]
            else:
                value = item.text() if item is not None else widget.checked
            rows[self._items[row, 0].text()] = value
        return rows

    def type(self, key: str, text: str) -> None:
        """Type a text into the cell beside a key."""
        row = next(row for row in range(self.rowCount) if self._items[row, 0].text() == key)
        self._items[row, 1] = Item(text)


class Bar:
    """A progress bar: every value that it had."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.tooltip = ""

    @property
    def value(self) -> float:
        return self.values[-1] if self.values else 0

    def setValue(self, value: float) -> None:
        self.values.append(value)

    def setToolTip(self, text: str) -> None:
        self.tooltip = text

    def setStyleSheet(self, css: str) -> None: ...


class Button:
    def __init__(self) -> None:
        self.enabled: Any = True

    def setEnabled(self, enabled: Any) -> None:
        self.enabled = enabled

    def setIcon(self, icon: object) -> None: ...

    def connect(self, signal: str, listener: object) -> None: ...
