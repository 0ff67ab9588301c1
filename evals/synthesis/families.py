"""Function families: what a synthetic function does, in code and in words.

A family is a template. ``{f}`` is the function's name, ``{a} {b} {c}`` its parameters, ``{x} {t} {i} ...`` local names,
``{K}`` and ``{L}`` small constants. The docstring says what a reader needs to judge every line. The compositional
family (:func:`composed`) makes a template from an aggregation, a mapping, a condition and a way to walk the list.
"""

from dataclasses import dataclass
from random import Random

ArgumentKind = str
"""``ints`` list of integers, ``int``, ``pos`` positive integer, ``str``, ``strs`` list of strings, ``pairs`` list of
(string, int), ``table`` dict from string to int, ``grid`` list of equally long integer lists."""


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of function. ``arguments`` gives one kind per parameter, in the order a, b, c."""

    name: str
    arguments: tuple[ArgumentKind, ...]
    doc: str
    body: str


def _family(name: str, arguments: str, doc: str, body: str) -> Family:
    return Family(name, tuple(arguments.split()), doc, body)


TEMPLATES: tuple[Family, ...] = (
    _family("add_scaled", "int int", "Return `{a}` plus {K} times `{b}`.", "return {a} + {K} * {b}"),
    _family("sub_scaled", "int int", "Return `{a}` minus {K} times `{b}`.", "return {a} - {K} * {b}"),
    _family("mul_add", "int int int", "Return `{a}` times `{b}`, plus `{c}`.", "return {a} * {b} + {c}"),
    _family("mul_sub", "int int int", "Return `{a}` times `{b}`, minus `{c}`.", "{t} = {a} * {b}\nreturn {t} - {c}"),
    _family(
        "diff_of_squares",
        "int int",
        "Return the square of `{a}` minus the square of `{b}`.",
        "{x} = {a} * {a}\n{t} = {b} * {b}\nreturn {x} - {t}",
    ),
    _family("perimeter", "int int", "Return twice the sum of `{a}` and `{b}`.", "{t} = {a} + {b}\nreturn 2 * {t}"),
    _family(
        "clamp",
        "int int int",
        "Return `{a}`, but not less than `{b}` and not more than `{c}`.",
        "if {a} < {b}:\n    return {b}\nif {a} > {c}:\n    return {c}\nreturn {a}",
    ),
    _family(
        "larger", "int int", "Return the larger one of `{a}` and `{b}`.", "if {a} > {b}:\n    return {a}\nreturn {b}"
    ),
    _family(
        "smaller", "int int", "Return the smaller one of `{a}` and `{b}`.", "if {a} < {b}:\n    return {a}\nreturn {b}"
    ),
    _family(
        "distance",
        "int int",
        "Return how far `{a}` is from `{b}`, never negative.",
        "{t} = {a} - {b}\nif {t} < 0:\n    return -{t}\nreturn {t}",
    ),
    _family(
        "sign_of",
        "int",
        "Return 1 if `{a}` is positive, -1 if it is negative, else 0.",
        "if {a} > 0:\n    return 1\nif {a} < 0:\n    return -1\nreturn 0",
    ),
    _family(
        "discount",
        "int pos",
        "Return `{a}` minus {K} if `{b}` is at least {L}, else `{a}`.",
        "if {b} >= {L}:\n    return {a} - {K}\nreturn {a}",
    ),
    _family(
        "bonus",
        "int int",
        "Return `{a}` plus {K} if `{b}` is greater than {L}, else `{a}`.",
        "if {b} > {L}:\n    return {a} + {K}\nreturn {a}",
    ),
    _family(
        "fee",
        "int int",
        "Return `{a}` times {K} if `{b}` is less than {L}, else `{a}` plus `{b}`.",
        "if {b} < {L}:\n    return {a} * {K}\nreturn {a} + {b}",
    ),
    _family("is_multiple", "int", "Return whether `{a}` is divisible by {K}.", "return {a} % {K} == 0"),
    _family(
        "is_between",
        "int int int",
        "Return whether `{a}` is at least `{b}` and less than `{c}`.",
        "return {b} <= {a} < {c}",
    ),
    _family(
        "digit_sum",
        "pos",
        "Return the sum of the decimal digits of `{a}`.",
        "{t} = 0\nfor {x} in str({a}):\n    {t} += int({x})\nreturn {t}",
    ),
    _family(
        "count_digits",
        "pos",
        "Return how many decimal digits of `{a}` are at least {K}.",
        "{t} = 0\nfor {x} in str({a}):\n    if int({x}) >= {K}:\n        {t} += 1\nreturn {t}",
    ),
    _family(
        "sum_range",
        "pos pos",
        "Return the sum of the numbers from `{a}` up to `{b}`, `{b}` included.",
        "{t} = 0\nfor {x} in range({a}, {b} + 1):\n    {t} += {x}\nreturn {t}",
    ),
    _family(
        "sum_below",
        "pos",
        "Return the sum of the numbers from 1 up to `{a}`, `{a}` not included.",
        "{t} = 0\nfor {x} in range(1, {a}):\n    {t} += {x}\nreturn {t}",
    ),
    _family(
        "factorial",
        "pos",
        "Return the product of the numbers from 1 to `{a}`.",
        "{t} = 1\nfor {x} in range(1, {a} + 1):\n    {t} *= {x}\nreturn {t}",
    ),
    _family(
        "power",
        "int pos",
        "Return the product of `{b}` copies of `{a}`.",
        "{t} = 1\nfor {x} in range({b}):\n    {t} *= {a}\nreturn {t}",
    ),
    _family(
        "count_divisors",
        "pos",
        "Return how many numbers from 1 to `{a}` divide `{a}`.",
        "{t} = 0\nfor {x} in range(1, {a} + 1):\n    if {a} % {x} == 0:\n        {t} += 1\nreturn {t}",
    ),
    _family("split_even", "pos pos", "Return how many full groups of `{b}` fit in `{a}`.", "return {a} // {b}"),
    _family(
        "left_over", "pos pos", "Return what is left of `{a}` after taking full groups of `{b}`.", "return {a} % {b}"
    ),
    _family(
        "running_total",
        "ints",
        "Return the running totals of `{a}`.",
        "{t} = 0\n{r} = []\nfor {x} in {a}:\n    {t} += {x}\n    {r}.append({t})\nreturn {r}",
    ),
    _family(
        "running_max",
        "ints",
        "Return the largest number seen so far, for each item of `{a}`.",
        "{t} = {a}[0]\n{r} = []\nfor {x} in {a}:\n    if {x} > {t}:\n        {t} = {x}\n    {r}.append({t})\nreturn {r}",
    ),
    _family(
        "differences",
        "ints",
        "Return each item of `{a}` minus the item before it, from the second item on.",
        "{r} = []\nfor {i} in range(1, len({a})):\n    {r}.append({a}[{i}] - {a}[{i} - 1])\nreturn {r}",
    ),
    _family(
        "pair_sums",
        "ints",
        "Return the sums of each item of `{a}` and the next one.",
        "{r} = []\nfor {i} in range(len({a}) - 1):\n    {r}.append({a}[{i}] + {a}[{i} + 1])\nreturn {r}",
    ),
    _family(
        "count_rises",
        "ints",
        "Count the items of `{a}` that are greater than the item before.",
        "{t} = 0\nfor {i} in range(1, len({a})):\n    if {a}[{i}] > {a}[{i} - 1]:\n        {t} += 1\nreturn {t}",
    ),
    _family(
        "is_ascending",
        "ints",
        "Return whether no item of `{a}` is less than the item before.",
        "for {i} in range(1, len({a})):\n    if {a}[{i}] < {a}[{i} - 1]:\n        return False\nreturn True",
    ),
    _family(
        "largest",
        "ints",
        "Return the largest item of `{a}`.",
        "{t} = {a}[0]\nfor {x} in {a}:\n    if {x} > {t}:\n        {t} = {x}\nreturn {t}",
    ),
    _family(
        "smallest",
        "ints",
        "Return the smallest item of `{a}`.",
        "{t} = {a}[0]\nfor {x} in {a}:\n    if {x} < {t}:\n        {t} = {x}\nreturn {t}",
    ),
    _family(
        "index_of_largest",
        "ints",
        "Return the position of the first largest item of `{a}`.",
        "{t} = 0\nfor {i} in range(len({a})):\n    if {a}[{i}] > {a}[{t}]:\n        {t} = {i}\nreturn {t}",
    ),
    _family(
        "index_of_smallest",
        "ints",
        "Return the position of the first smallest item of `{a}`.",
        "{t} = 0\nfor {i} in range(len({a})):\n    if {a}[{i}] < {a}[{t}]:\n        {t} = {i}\nreturn {t}",
    ),
    _family(
        "find_position",
        "ints int",
        "Return the position of the first `{b}` in `{a}`, or -1.",
        "for {i} in range(len({a})):\n    if {a}[{i}] == {b}:\n        return {i}\nreturn -1",
    ),
    _family(
        "spread",
        "ints",
        "Return the largest item of `{a}` minus the smallest one.",
        "{t} = max({a})\n{x} = min({a})\nreturn {t} - {x}",
    ),
    _family("first_plus_last", "ints", "Return the first item of `{a}` plus the last one.", "return {a}[0] + {a}[-1]"),
    _family(
        "dot",
        "ints ints",
        "Return the sum of the products of the items of `{a}` and `{b}` at equal positions.",
        "{t} = 0\nfor {x}, {y} in zip({a}, {b}):\n    {t} += {x} * {y}\nreturn {t}",
    ),
    _family(
        "add_lists",
        "ints ints",
        "Return the sums of the items of `{a}` and `{b}` at equal positions.",
        "{r} = []\nfor {x}, {y} in zip({a}, {b}):\n    {r}.append({x} + {y})\nreturn {r}",
    ),
    _family(
        "sub_lists",
        "ints ints",
        "Return the items of `{a}` minus the items of `{b}` at equal positions.",
        "{r} = []\nfor {x}, {y} in zip({a}, {b}):\n    {r}.append({x} - {y})\nreturn {r}",
    ),
    _family(
        "count_equal",
        "ints ints",
        "Count the positions at which `{a}` and `{b}` are equal.",
        "{t} = 0\nfor {x}, {y} in zip({a}, {b}):\n    if {x} == {y}:\n        {t} += 1\nreturn {t}",
    ),
    _family(
        "common_items",
        "ints ints",
        "Return the items of `{a}` that are in `{b}`.",
        "{r} = []\nfor {x} in {a}:\n    if {x} in {b}:\n        {r}.append({x})\nreturn {r}",
    ),
    _family(
        "missing_items",
        "ints ints",
        "Return the items of `{a}` that are not in `{b}`.",
        "{r} = []\nfor {x} in {a}:\n    if {x} not in {b}:\n        {r}.append({x})\nreturn {r}",
    ),
    _family(
        "distinct",
        "ints",
        "Return the items of `{a}` without repeats.",
        "{r} = []\nfor {x} in {a}:\n    if {x} not in {r}:\n        {r}.append({x})\nreturn {r}",
    ),
    _family("take_first", "ints pos", "Return the first `{b}` items of `{a}`.", "return {a}[:{b}]"),
    _family("drop_first", "ints pos", "Return `{a}` without its first `{b}` items.", "return {a}[{b}:]"),
    _family(
        "rotate_left", "ints", "Return `{a}` with its first {K} items moved to the end.", "return {a}[{K}:] + {a}[:{K}]"
    ),
    _family(
        "every_other",
        "ints",
        "Return the items of `{a}` at even positions.",
        "{r} = []\nfor {i} in range(len({a})):\n    if {i} % 2 == 0:\n        {r}.append({a}[{i}])\nreturn {r}",
    ),
    _family(
        "weighted_sum",
        "ints",
        "Return the sum of the items of `{a}`, each times its position plus {K}.",
        "{t} = 0\nfor {i}, {x} in enumerate({a}):\n    {t} += {x} * ({i} + {K})\nreturn {t}",
    ),
    _family(
        "sum_except",
        "ints int",
        "Return the sum of the items of `{a}` that are not equal to `{b}`.",
        "{t} = 0\nfor {x} in {a}:\n    if {x} == {b}:\n        continue\n    {t} += {x}\nreturn {t}",
    ),
    _family(
        "sum_until",
        "ints int",
        "Return the sum of the items of `{a}` before the first one greater than `{b}`.",
        "{t} = 0\nfor {x} in {a}:\n    if {x} > {b}:\n        break\n    {t} += {x}\nreturn {t}",
    ),
    _family(
        "capped_sum",
        "ints int",
        "Return the sum of the items of `{a}`, but not more than `{b}`.",
        "{t} = 0\nfor {x} in {a}:\n    {t} += {x}\nif {t} > {b}:\n    return {b}\nreturn {t}",
    ),
    _family(
        "scale_all",
        "ints int",
        "Return the items of `{a}`, each times `{b}` plus {K}.",
        "return [{x} * {b} + {K} for {x} in {a}]",
    ),
    _family(
        "pair_with_length",
        "strs",
        "Return the pairs of each string in `{a}` and its length.",
        "{r} = []\nfor {x} in {a}:\n    {r}.append(({x}, len({x})))\nreturn {r}",
    ),
    _family(
        "total_length",
        "strs",
        "Return the sum of the lengths of the strings in `{a}`.",
        "{t} = 0\nfor {x} in {a}:\n    {t} += len({x})\nreturn {t}",
    ),
    _family(
        "longest",
        "strs",
        "Return the first longest string in `{a}`.",
        "{t} = {a}[0]\nfor {x} in {a}:\n    if len({x}) > len({t}):\n        {t} = {x}\nreturn {t}",
    ),
    _family(
        "shortest",
        "strs",
        "Return the first shortest string in `{a}`.",
        "{t} = {a}[0]\nfor {x} in {a}:\n    if len({x}) < len({t}):\n        {t} = {x}\nreturn {t}",
    ),
    _family(
        "long_strings",
        "strs pos",
        "Return the strings in `{a}` that have more than `{b}` letters.",
        "{r} = []\nfor {x} in {a}:\n    if len({x}) > {b}:\n        {r}.append({x})\nreturn {r}",
    ),
    _family(
        "short_strings",
        "strs pos",
        "Return the strings in `{a}` that have at most `{b}` letters.",
        "{r} = []\nfor {x} in {a}:\n    if len({x}) <= {b}:\n        {r}.append({x})\nreturn {r}",
    ),
    _family(
        "count_letter",
        "str str",
        "Count the letters of `{a}` that are in `{b}`.",
        "{t} = 0\nfor {x} in {a}:\n    if {x} in {b}:\n        {t} += 1\nreturn {t}",
    ),
    _family(
        "remove_letters",
        "str str",
        "Return `{a}` without the letters that are in `{b}`.",
        "{r} = ''\nfor {x} in {a}:\n    if {x} not in {b}:\n        {r} += {x}\nreturn {r}",
    ),
    _family(
        "repeat_text",
        "str pos",
        "Return `{a}` repeated `{b}` times.",
        "{r} = ''\nfor {i} in range({b}):\n    {r} += {a}\nreturn {r}",
    ),
    _family("head_text", "str", "Return the first {K} letters of `{a}`.", "return {a}[:{K}]"),
    _family("tail_text", "str", "Return `{a}` without its first {K} letters.", "return {a}[{K}:]"),
    _family("is_palindrome", "str", "Return whether `{a}` is the same read backwards.", "return {a} == {a}[::-1]"),
    _family("surround", "str str", "Return `{b}`, then `{a}`, then `{b}`.", "return {b} + {a} + {b}"),
    _family(
        "pad_left",
        "str pos",
        "Return `{a}` with dots before it, up to `{b}` letters.",
        "{r} = {a}\nwhile len({r}) < {b}:\n    {r} = '.' + {r}\nreturn {r}",
    ),
    _family(
        "join_long",
        "strs pos",
        "Return the strings in `{a}` that have at least `{b}` letters, joined by dashes.",
        "{r} = []\nfor {x} in {a}:\n    if len({x}) >= {b}:\n        {r}.append({x})\nreturn '-'.join({r})",
    ),
    _family(
        "tally",
        "strs",
        "Return a dict from each string in `{a}` to how often it occurs.",
        "{r} = {{}}\nfor {x} in {a}:\n    {r}[{x}] = {r}.get({x}, 0) + 1\nreturn {r}",
    ),
    _family(
        "sum_by_key",
        "pairs",
        "Return a dict from each key of the pairs `{a}` to the sum of its numbers.",
        "{r} = {{}}\nfor {x}, {y} in {a}:\n    {r}[{x}] = {r}.get({x}, 0) + {y}\nreturn {r}",
    ),
    _family(
        "max_by_key",
        "pairs",
        "Return a dict from each key of the pairs `{a}` to its largest number.",
        "{r} = {{}}\nfor {x}, {y} in {a}:\n    if {x} not in {r} or {y} > {r}[{x}]:\n        {r}[{x}] = {y}\nreturn {r}",
    ),
    _family(
        "keys_above",
        "table int",
        "Return the keys of the dict `{a}` with a number greater than `{b}`.",
        "{r} = []\nfor {x}, {y} in {a}.items():\n    if {y} > {b}:\n        {r}.append({x})\nreturn {r}",
    ),
    _family(
        "sum_table",
        "table",
        "Return the sum of the numbers in the dict `{a}`.",
        "{t} = 0\nfor {x} in {a}:\n    {t} += {a}[{x}]\nreturn {t}",
    ),
    _family(
        "best_key",
        "table",
        "Return the first key of the dict `{a}` with the largest number.",
        "{r} = None\nfor {x}, {y} in {a}.items():\n    if {r} is None or {y} > {a}[{r}]:\n        {r} = {x}\nreturn {r}",
    ),
    _family(
        "shift_table",
        "table int",
        "Return the dict `{a}` with `{b}` added to each number.",
        "{r} = {{}}\nfor {x}, {y} in {a}.items():\n    {r}[{x}] = {y} + {b}\nreturn {r}",
    ),
    _family(
        "row_sums",
        "grid",
        "Return the sums of the rows of `{a}`.",
        "{r} = []\nfor {x} in {a}:\n    {r}.append(sum({x}))\nreturn {r}",
    ),
    _family(
        "grid_total",
        "grid",
        "Return the sum of all numbers in the rows of `{a}`.",
        "{t} = 0\nfor {x} in {a}:\n    for {y} in {x}:\n        {t} += {y}\nreturn {t}",
    ),
    _family(
        "grid_count",
        "grid int",
        "Count the numbers in the rows of `{a}` that are greater than `{b}`.",
        "{t} = 0\nfor {x} in {a}:\n    for {y} in {x}:\n        if {y} > {b}:\n            {t} += 1\nreturn {t}",
    ),
    _family(
        "diagonal",
        "grid",
        "Return the numbers of `{a}` whose row and column are equal.",
        "{r} = []\nfor {i} in range(len({a})):\n    {r}.append({a}[{i}][{i}])\nreturn {r}",
    ),
    _family(
        "column",
        "grid pos",
        "Return the numbers at position {K} of each row of `{a}`, plus `{b}`.",
        "{r} = []\nfor {x} in {a}:\n    {r}.append({x}[{K}] + {b})\nreturn {r}",
    ),
)

_CONDITIONS = (
    ("", ""),
    ("{x} > {b}", " that are greater than `{b}`"),
    ("{x} >= {b}", " that are at least `{b}`"),
    ("{x} < {b}", " that are less than `{b}`"),
    ("{x} <= {b}", " that are at most `{b}`"),
    ("{x} != {b}", " that are not equal to `{b}`"),
    ("{x} > {L}", " that are greater than {L}"),
    ("{x} >= {L}", " that are at least {L}"),
    ("{x} < {L}", " that are less than {L}"),
    ("{x} <= {L}", " that are at most {L}"),
    ("{x} % {K} == 0", " that are divisible by {K}"),
    ("{x} % {K} != 0", " that are not divisible by {K}"),
    ("{x} % {K} == 1", " that leave 1 when divided by {K}"),
    ("{b} < {x} < {c}", " that are greater than `{b}` and less than `{c}`"),
    ("{b} <= {x} <= {c}", " that are at least `{b}` and at most `{c}`"),
)
_MAPS = (
    ("{x}", "the items"),
    ("{x}", "the items"),
    ("{x} * {x}", "the squares of the items"),
    ("{x} + {M}", "the items plus {M}"),
    ("{x} - {M}", "the items minus {M}"),
    ("{x} * {M}", "the items times {M}"),
    ("{x} // {M}", "the items divided by {M}, rounded down,"),
    ("{x} * {d}", "the items times `{d}`"),
    ("{x} + {d}", "the items plus `{d}`"),
    ("{x} - {d}", "the items minus `{d}`"),
    ("{d} - {x}", "`{d}` minus the items"),
    ("abs({x})", "the absolute values of the items"),
)
_WALKS = (
    ("for {x} in {a}:", "`{a}`"),
    ("for {x} in {a}:", "`{a}`"),
    ("for {x} in {a}[{W}:]:", "`{a}`, its first {W} left out,"),
    ("for {x} in {a}[:-{W}]:", "`{a}`, its last {W} left out,"),
    ("for {x} in {a}[:{W}]:", "the first {W} of `{a}`"),
)
_AGGREGATIONS = (
    ("sum", "Return the sum of", "{t} = 0", "{t} += {e}", "{t}"),
    ("sum_from", "Return {K} plus the sum of", "{t} = {K}", "{t} += {e}", "{t}"),
    ("less", "Return {K} minus the sum of", "{t} = {K}", "{t} -= {e}", "{t}"),
    ("product", "Return the product of", "{t} = 1", "{t} *= {e}", "{t}"),
    ("collect", "Return a list of", "{t} = []", "{t}.append({e})", "{t}"),
    ("largest", "Return the largest of 0 and", "{t} = 0", "if {e} > {t}:\n    {t} = {e}", "{t}"),
    ("smallest", "Return the smallest of 0 and", "{t} = 0", "if {e} < {t}:\n    {t} = {e}", "{t}"),
    ("count", "Count", "{t} = 0", "{t} += 1", "{t}"),
    ("first", "Return the first of", "", "return {e}", "None"),
    ("comprehension", "Return a list of", "", "", ""),
    ("total", "Return the sum of", "", "", ""),
)


def composed(random: Random) -> Family:
    """One of some ten thousand loops over a list: aggregation x mapping x condition x walk."""
    name, opening, start, step, end = random.choice(_AGGREGATIONS)
    expression, phrase = _MAPS[0] if name == "count" else random.choice(_MAPS)
    condition, clause = random.choice(_CONDITIONS[1:] if name in ("count", "first") else _CONDITIONS)
    walk, where = random.choice(_WALKS)
    link = " " if where.startswith("the first") and phrase == "the items" else " of "
    doc = f"{opening} {phrase} of {where}{clause}." if link == " of " else f"{opening} {phrase} among {where}{clause}."
    body = _loop(walk, start, step, end, expression, condition)
    if name in ("comprehension", "total"):
        test = f" if {condition}" if condition else ""
        inner = f"{expression} {walk.removesuffix(':')}{test}"
        body = f"return [{inner}]" if name == "comprehension" else f"return sum({inner})"
    used = "".join((body, doc))
    parameters = [letter for letter in "abcd" if f"{{{letter}}}" in used]
    kinds = tuple("ints" if letter == "a" else "int" for letter in parameters)
    # Parameters are named a, b, c without gaps in a template.
    for new, old in zip("abcd", parameters, strict=False):
        body, doc = body.replace(f"{{{old}}}", f"{{{new}}}"), doc.replace(f"{{{old}}}", f"{{{new}}}")
    return Family(f"composed_{name}", kinds, doc, body)


def _loop(walk: str, start: str, step: str, end: str, expression: str, condition: str) -> str:
    inner = step.replace("{e}", expression).split("\n")
    if condition:
        inner = [f"if {condition}:", *(f"    {line}" for line in inner)]
    lines = [start] if start else []
    return "\n".join([*lines, walk, *(f"    {line}" for line in inner), f"return {end}"])
