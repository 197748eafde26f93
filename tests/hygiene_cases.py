"""Notebooks that break one rule each, with their fixed twins: what keeps a notebook from running elsewhere, tomorrow, from top to bottom."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    "Cells with one fault, and the same cells without it."

    bad: tuple[str, ...]
    fixed: tuple[str, ...]
    counts: tuple[int | None, ...] = ()
    fixed_counts: tuple[int | None, ...] = ()


def _fault(bad: str | tuple[str, ...], fixed: str | tuple[str, ...]) -> Fault:
    return Fault((bad,) if isinstance(bad, str) else bad, (fixed,) if isinstance(fixed, str) else fixed)


_LONG = tuple("\n".join(f"x{i} = {i}" for i in range(a, b)) for a, b in ((0, 61), (0, 30), (30, 61)))
FAULTS: dict[str, list[Fault]] = {
    "syntax-error": [
        _fault("x = = 1", "x = 1"),
        _fault("def f(:\n    return 1", "def f():\n    return 1"),
        _fault("print 'done'", "print('done')"),
        _fault("if True:\npass", "if True:\n    pass"),
    ],
    "undefined-name": [
        _fault("print(nothing)", "nothing = 1\nprint(nothing)"),
        _fault(("def f():\n    return missing", "f()"), ("def f(missing):\n    return missing", "f(1)")),
        _fault("total = sum(rows)", "rows = [1, 2]\ntotal = sum(rows)"),
        _fault("class A(Base):\n    pass", "Base = object\nclass A(Base):\n    pass"),
    ],
    "used-before-definition": [
        _fault(("print(x)", "x = 1"), ("x = 1", "print(x)")),
        _fault(("y = f(2)", "def f(n):\n    return n"), ("def f(n):\n    return n", "y = f(2)")),
        _fault(("a = [n for n in items]", "items = [1]"), ("items = [1]", "a = [n for n in items]")),
    ],
    "deleted-name": [
        _fault(("x = 1", "del x", "print(x)"), ("x = 1", "print(x)", "del x")),
        _fault(
            ("big = [1]\nn = len(big)\ndel big", "print(big[0])"), ("big = [1]\nn = len(big)", "print(big[0])\ndel big")
        ),
        _fault(("a = b = 1\ndel a, b", "print(b)"), ("a = b = 1\ndel a", "print(b)")),
    ],
    "execution-order": [
        Fault(("a = 1", "b = 1"), ("a = 1", "b = 1"), (2, 1), (1, 2)),
        Fault(("a = 1", "b = 1", "c = 1"), ("a = 1", "b = 1", "c = 1"), (5, 7, 6), (5, 6, 7)),
        Fault(("a = 1", "b = 1"), ("a = 1", "b = 1"), (3, 3), (3, 4)),
    ],
    "unrun-cell": [
        Fault(("a = 1", "b = 1", "c = 1"), ("a = 1", "b = 1", "c = 1"), (1, None, 2), (1, 2, 3)),
        Fault(
            ("a = 1", "def f():\n    return 1", "f()"),
            ("a = 1", "def f():\n    return 1", "f()"),
            (1, None, 3),
            (1, 2, None),
        ),
        Fault(
            ("import os", "os.getcwd()", "b = 2"), ("import os", "# read below", "b = 2"), (1, None, 2), (1, None, 2)
        ),
    ],
    "captured-global": [
        _fault("rate = 2\ndef f(x):\n    return x * rate", "def f(x, rate):\n    return x * rate"),
        _fault(("df = [1]", "def first():\n    return df[0]"), ("df = [1]", "def first(rows):\n    return rows[0]")),
        _fault(
            "k = 3\nclass A:\n    def f(self):\n        return k", "K = 3\nclass A:\n    def f(self):\n        return K"
        ),
    ],
    "magic": [
        _fault("%load_ext autoreload", "import importlib"),
        _fault("!ls data", "import os\nos.listdir('data')"),
        _fault("files = !ls", "import os\nfiles = os.listdir()"),
        _fault("get_ipython().run_line_magic('time', '')", "import time\ntime.perf_counter()"),
        _fault("%%bash\nls", "# the data folder must exist"),
    ],
    "absolute-path": [
        _fault("open('/home/ana/data.csv')", "open('data/data.csv')"),
        _fault(r"open(r'C:\data\a.csv')", "open('data/a.csv')"),
        _fault("path = '~/work/a.parquet'", "path = 'work/a.parquet'"),
        _fault("path = '/Users/bo/x.json'", "route = '/users/bo'"),
    ],
    "secret": [
        _fault("key = 'AKIAIOSFODNN7EXAMPLE'", "import os\nkey = os.environ['KEY']"),
        _fault("db = {'password': 'correct horse'}", "import os\ndb = {'password': os.environ['PW']}"),
        _fault("url = 'postgresql://me:hunter22@db/x'", "url = 'postgresql://db/x'"),
        _fault("api_token = 'd41d8cd98f00b204'", "api_token = None"),
        _fault("login = dict(password='s3cr3t-word')", "login = dict(password='<your password>')"),
    ],
    "network-call": [
        _fault("import requests\nrequests.get('https://example.org')", "text = open('page.html').read()"),
        _fault(
            "import pandas as pd\npd.read_csv('https://example.org/a.csv')", "import pandas as pd\npd.read_csv('a.csv')"
        ),
        _fault("from urllib.request import urlopen\nurlopen('http://a.example')", "link = 'http://a.example'"),
    ],
    "star-import": [
        _fault("from numpy import *", "from numpy import mean"),
        _fault("from os.path import *\njoin('a', 'b')", "from os.path import join\njoin('a', 'b')"),
        _fault("try:\n    from math import *\nexcept ImportError:\n    pass", "from math import pi"),
    ],
    "unseeded-randomness": [
        _fault("import random\nrandom.shuffle([1])", "import random\nrandom.Random(0).shuffle([1])"),
        _fault("import numpy as np\nnp.random.default_rng()", "import numpy as np\nnp.random.default_rng(3)"),
        _fault("import numpy as np\nnp.random.rand(3)", "import numpy as np\nnp.random.seed(1)\nnp.random.rand(3)"),
        _fault(
            "from sklearn.ensemble import RandomForestClassifier\nRandomForestClassifier(max_depth=2)",
            "from sklearn.ensemble import RandomForestClassifier\nRandomForestClassifier(max_depth=2, random_state=0)",
        ),
        _fault(
            "from sklearn.model_selection import train_test_split\ntrain_test_split([1, 2], [0, 1])",
            "from sklearn.model_selection import train_test_split\ntrain_test_split([1, 2], [0, 1], random_state=4)",
        ),
    ],
    "long-cell": [_fault(_LONG[0], (_LONG[1], _LONG[2])), _fault(_LONG[0] + "\n" + _LONG[2], _LONG[1] + "\n# end")],
    "dead-cell": [
        _fault("# x = load()\n# fit(x)", "# Load the rows.\n# Then fit."),
        _fault("if False:\n    x = 1", "x = 1"),
        _fault("# import os\n# os.getcwd()", "import os\nos.getcwd()"),
    ],
    "print-result": [
        _fault(
            ("from sklearn.metrics import f1_score", "f1 = f1_score([1], [1])", "print('f1', f1)"),
            ("from sklearn.metrics import f1_score", "f1 = f1_score([1], [1])", "f1"),
        ),
        _fault(
            "from sklearn.metrics import accuracy_score\nprint(accuracy_score([1], [1]))",
            "from sklearn.metrics import accuracy_score\nprint('judging')\naccuracy = accuracy_score([1], [1])",
        ),
        _fault(
            "from sklearn.dummy import DummyClassifier\nprint(f'{DummyClassifier().score([[1]], [1]):.2f}')",
            "from sklearn.dummy import DummyClassifier\nresult = DummyClassifier().score([[1]], [1])",
        ),
    ],
    "unpinned-import": [
        _fault("import polars", "# pip install polars==1.2\nimport polars"),
        _fault("from PIL import Image", "# pip install pillow==11.0\nfrom PIL import Image"),
        _fault("import json, torch", "# /// script\n# dependencies = ['torch~=2.4']\n# ///\nimport json, torch"),
    ],
    "not-analysed": [
        _fault("x = " + "-" * 400 + "1", "x = -1"),
        _fault("x = 1\ny = " + "(" * 90 + " + ".join(["x"] * 400) + ")" * 90, "x = 1\ny = 400 * x"),
    ],
}
