"""The measured parts of README.md and README.ja.md: regions between two comments, each rendered by one function.

<!-- results: NAME -->
...
<!-- end -->
"""

import re
from collections.abc import Callable

from bench.report import told_accuracy, told_design, told_missed, told_puppetize, told_speed, told_training
from bench.report.results import Results
from bench.report.told import STUDY, tell

REGION = re.compile(r"<!-- results: ([\w-]+) -->\n(.*?)<!-- end -->\n", re.DOTALL)


def _headline(results: Results) -> str:
    learned = tell(results, STUDY, told_accuracy.first_sentence)
    return results.say.together([learned, tell(results, "speed.json", told_speed.first_sentence)])


REGIONS: dict[str, Callable[[Results], str]] = {
    "headline": _headline,
    "accuracy": told_accuracy.main,
    "digits": told_accuracy.digits,
    "design": told_design.design,
    "speed": told_speed.speed,
    "training": told_training.training,
    "memory": told_training.memory,
    "precision": told_training.precision,
    "puppetize": told_puppetize.puppetize,
    "gpu": told_speed.gpu,
    "missed": told_missed.missed,
}


def render(text: str, results: Results) -> str:
    """A README with its regions as the results have them now.

    Raises:
        ValueError: a region has a name that no function knows, or is not closed.
    """
    if (opened := text.count("<!-- results: ")) != (closed := len(REGION.findall(text))):
        raise ValueError(f"{opened} regions begin and {closed} end; each ends in a line '<!-- end -->'")

    def anew(found: re.Match) -> str:
        name = found[1]
        if name not in REGIONS:
            raise ValueError(f"region {name!r}: expected one of {', '.join(REGIONS)}")
        return f"<!-- results: {name} -->\n{REGIONS[name](results)}\n<!-- end -->\n"

    return REGION.sub(anew, text)
