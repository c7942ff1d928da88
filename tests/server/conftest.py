"""MLServer uses names that newer Starlettes deprecate: it is imported once, here, where that is no failure."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mlserver  # noqa: F401  # the import is the point
