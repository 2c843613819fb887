"""A directed graph with labels, as plain data and as Graphviz's text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """`label` as Graphviz reads it, with `\\n` (two characters) between lines; `fill` is a colour or None."""

    label: str
    shape: str
    fill: str | None

    @property
    def lines(self) -> list[str]:
        return self.label.split(r"\n")


@dataclass(frozen=True)
class Edge:
    source: str
    target: str
    label: str = ""


@dataclass(frozen=True)
class Graph:
    """Nodes by name. `rankdir`: where it runs, in Graphviz's words: LR, RL, TB or BT."""

    name: str
    rankdir: str
    nodes: dict[str, Node]
    edges: list[Edge]

    def dot_text(self) -> str:
        """The graph in Graphviz's language."""
        lines = [f"digraph {_quoted(self.name)} {{", f"rankdir={self.rankdir};"]
        for name, node in self.nodes.items():
            fill = f', fillcolor="{node.fill}", style=filled' if node.fill else ""
            lines.append(f"{_quoted(name)} [label={_quoted(node.label)}, shape={node.shape}{fill}];")
        lines += [
            f"{_quoted(edge.source)} -> {_quoted(edge.target)} [label={_quoted(edge.label)}];"
            for edge in self.edges
        ]
        return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return '"' + text.replace('"', r"\"") + '"'
