"""What is changed: one operator, number, condition or loop of a module at a time, by the operators of cosmic-ray."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

OPERATORS = (
    *(f"ReplaceBinaryOperator_{pair}" for pair in (
        "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul", "BitAnd_BitOr",
        "BitOr_BitAnd", "LShift_RShift", "RShift_LShift",
    )),
    *(f"ReplaceComparisonOperator_{pair}" for pair in (
        "Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_GtE", "LtE_Gt", "Gt_LtE", "GtE_Lt",
        "Is_IsNot", "IsNot_Is",
    )),
    "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_USub", "AddNot", "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak", "NumberReplacer", "ZeroIterationForLoop",
)  # fmt: skip
"""One partner for each operator, where cosmic-ray has all: `a + b` as `a - b`, not also as `a ^ b`."""


@dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    path: str
    line: int
    operator: str
    occurrence: int

    def code(self, original: str) -> str:
        """The module's text with the change."""
        changed = mutate_code(original, get_operator(f"core/{self.operator}")(), self.occurrence)
        assert changed is not None, self
        return str(changed)

    def lines(self, original: str) -> tuple[str, str]:
        """The line as it is and as it becomes."""
        pairs = zip(original.splitlines(), self.code(original).splitlines())
        return next((before.strip(), after.strip()) for before, after in pairs if before != after)


def mutants(root: Path, path: str) -> Iterator[Mutant]:
    """Every change of a module that some test could see."""
    text = (root / path).read_text()
    unseen = list(unseen_parts(text))
    tree = get_ast(text)
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        occurrence = 0
        for node in ast_nodes(tree):
            for start, _ in operator.mutation_positions(node):
                if not any(begin <= start < end for begin, end in unseen):
                    yield Mutant(path, start[0], name, occurrence)
                occurrence += 1


def unseen_parts(text: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations and the options of dataclasses begin and end, as line and column: nothing runs by them."""
    for node in ast.walk(ast.parse(text)):
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        parts += [one for one in getattr(node, "decorator_list", ()) if ast.unparse(one).startswith("dataclass")]
        for part in parts:
            if isinstance(part, ast.expr):
                assert part.end_lineno is not None and part.end_col_offset is not None
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)
