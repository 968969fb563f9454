"""Random series and well-typed random queries over them, the same for the same seed."""

import random

INTERVAL_MS = 15_000
POINTS = 80
END_MS = INTERVAL_MS * POINTS
JOBS = ["api", "db"]
# Floats, and native histograms: their results differ too much in kind to be asked alike.
FLOATS = ["hits_total", "memory", "odd", "took_bucket", "up", "dotted.name"]
HISTOGRAMS = ["native", "custom", "mixed"]
LABELS = ["job", "code", "le", "instance", "none", "__name__"]
DURATIONS = ["15s", "30s", "1m", "75s", "2m", "5m", "7m30s", "20m"]
INFO_MATCHERS = ["", ', {version=~".+"}', ', {none=""}']
NUMBERS = ["0", "1", "2", "-1", "0.5", "3.7", "1e3", "100", "NaN", "Inf", "-Inf", "0x1f", "1_000"]


class Series:
    """Lines of series in the notation of test scripts."""

    def __init__(self, rng):
        self.rng = rng

    def points(self, one):
        rng, out = self.rng, []
        left = POINTS
        while left > 0:
            take = min(left, rng.randint(1, 25))
            left -= take
            kind = rng.random()
            if kind < 0.08:
                out.append(f"_x{take}")
            elif kind < 0.12:
                out.append("stale")
                left += take - 1
            else:
                out.append(one(take))
        return " ".join(out)

    def counter(self, take):
        start, step = self.rng.choice([0, 0, 3, 100]), self.rng.choice([0, 1, 2.5, 60, 1e-3])
        return f"{start:.0f}+{step:g}x{take - 1}"

    def gauge(self, take):
        rng = self.rng
        if rng.random() < 0.5:
            return " ".join(f"{rng.uniform(-100, 100):.3f}" for _ in range(take))
        return f"{rng.randint(-50, 50)}{rng.choice('+-')}{rng.randint(0, 9)}x{take - 1}"

    def odd(self, take):
        pick = ["NaN", "Inf", "-Inf", "0", "-0", "1e308", "1e-300", "1", "2", "3.5"]
        return " ".join(self.rng.choice(pick) for _ in range(take))

    def one_or_zero(self, take):
        return f"{self.rng.randint(0, 1)}x{take - 1}"

    def histogram(self, take):
        rng = self.rng
        schema = rng.choice([-1, 0, 0, 1, 3])
        count = rng.randint(1, 4)
        first = [rng.randint(1, 9) for _ in range(count)]
        more = [rng.randint(1, 4) for _ in range(count)]
        # Empty buckets are kept by Prometheus and not by evenkeel, which shows where two are compared.
        zero, n = rng.randint(0, 3), rng.randint(1, 5)
        text = lambda b, z, m, s: (
            f"{{{{schema:{schema} sum:{s} count:{sum(b) + z + m} z_bucket:{z} z_bucket_w:0.001 "
            f"buckets:[{' '.join(map(str, b))}] n_buckets:[{m}]}}}}"
        )
        plain = text(first, zero, n, rng.randint(0, 50))
        if take == 1:
            return plain
        return f"{plain}+{text(more, 1, 0, rng.randint(0, 9))}x{take - 1}"

    def custom(self, take):
        rng = self.rng
        bounds = rng.choice(["5 10", "1 5 10", "1 2 3 4"])
        buckets = [rng.randint(1, 9) for _ in range(len(bounds.split()) + 1)]
        text = lambda k: (
            f"{{{{schema:-53 sum:{3 * k} count:{k * sum(buckets)} custom_values:[{bounds}] "
            f"buckets:[{' '.join(str(k * b) for b in buckets)}]}}}}"
        )
        return text(1) if take == 1 else f"{text(2)}+{text(1)}x{take - 1}"

    def mixed(self, take):
        return self.counter(take) if self.rng.random() < 0.5 else self.histogram(take)

    def lines(self):
        rng, lines = self.rng, []
        for job in JOBS:
            for code in ["200", "500"]:
                lines.append(f'hits_total{{job="{job}",code="{code}"}} {self.points(self.counter)}')
            for instance in range(rng.randint(1, 3)):
                lines.append(f'memory{{job="{job}",instance="{instance}"}} {self.points(self.gauge)}')
                lines.append(f'up{{job="{job}",instance="{instance}"}} {self.points(self.one_or_zero)}')
            scale = [rng.randint(0, 5) for _ in range(4)]
            for i, le in enumerate(["0.1", "0.5", "1", "+Inf"]):
                step = sum(scale[: i + 1])
                lines.append(f'took_bucket{{job="{job}",le="{le}"}} {step}+{step}x{POINTS - 1}')
            lines.append(f'native{{job="{job}"}} {self.points(self.histogram)}')
            lines.append(f'custom{{job="{job}"}} {self.points(self.custom)}')
            lines.append(f'target_info{{job="{job}",version="{rng.randint(1, 3)}"}} {self.points(self.one_or_zero)}')
        lines.append(f"odd {self.points(self.odd)}")
        lines.append(f'odd{{kind="late"}} _x{rng.randint(1, 60)} {self.points(self.odd)}')
        lines.append(f'mixed{{job="api"}} {self.points(self.mixed)}')
        lines.append(f'{{"dotted.name","l.abel"="v"}} {self.points(self.gauge)}')
        # Prometheus answers in the order of arrival, which limitk shows.
        return sorted(lines)


class Queries:
    """Well-typed queries; depth bounds their size."""

    def __init__(self, rng):
        self.rng = rng

    # Selectors.

    def name(self):
        return self.rng.choice(FLOATS * 3 + HISTOGRAMS)

    def matchers(self):
        rng = self.rng
        choices = ['job="api"', 'job!="api"', 'job=~"a.*|db"', 'code!~"5.."', 'code=~"5..|"', 'instance=""', 'instance!=""', 'job=~".+"', 'le="1"']
        return ",".join(rng.sample(choices, rng.choice([0, 0, 0, 1, 1, 2])))

    def modifiers(self):
        rng = self.rng
        out = ""
        if rng.random() < 0.12:
            out += f" offset {rng.choice(['', '', '-'])}{rng.choice(DURATIONS)}"
        if rng.random() < 0.1:
            out += rng.choice([" @ 600", " @ start()", " @ end()", " @ 300.5", " @ 0"])
        return out

    def selector(self, range_text=""):
        name, matchers = self.name(), self.matchers()
        if "." in name:
            inside = f'"{name}"' + (f",{matchers}" if matchers else "")
            text = f"{{{inside}}}"
        elif self.rng.random() < 0.04:
            text = f'{{__name__=~"{name}|up"{"," + matchers if matchers else ""}}}'
        else:
            text = f"{name}{{{matchers}}}" if matchers else name
        return text + range_text + self.modifiers()

    # By type.

    def scalar(self, depth):
        rng = self.rng
        if depth <= 0 or rng.random() < 0.6:
            return rng.choice(NUMBERS + ["time()", "pi()"])
        return rng.choice([
            lambda: f"scalar({self.vector(depth - 1)})",
            lambda: f"-{self.scalar(depth - 1)}",
            lambda: f"({self.scalar(depth - 1)} {rng.choice(['+', '-', '*', '/', '%', '^', '== bool', '> bool'])} {self.scalar(depth - 1)})",
        ])()

    def matrix(self, depth):
        rng = self.rng
        if depth <= 0 or rng.random() < 0.8:
            return self.selector(f"[{rng.choice(DURATIONS)}]")
        step = rng.choice(["", "15s", "30s", "1m", "40s"])
        return f"{self.operand(depth - 1)}[{rng.choice(DURATIONS)}:{step}]{self.modifiers()}"

    def operand(self, depth):
        """A vector that may stand beside an operator or before a bracket."""
        text = self.vector(depth)
        plain = text.replace("_", "").replace(".", "").isalnum()
        return text if plain else f"({text})"

    def vector(self, depth):
        rng = self.rng
        if depth <= 0 or rng.random() < 0.12:
            return self.selector()
        return rng.choices(
            [self.over_range, self.function, self.aggregation, self.binary, self.histogram_call, self.special],
            [30, 14, 22, 24, 10, 6],
        )[0](depth - 1)

    def extended(self):
        """A selector whose ends are extended to those of the range."""
        rng = self.rng
        kind, functions = rng.choice([
            ("anchored", "rate increase delta changes resets"),
            ("smoothed", "rate increase delta"),
        ])
        name = rng.choice(["hits_total", "memory", "up"])
        return f"{rng.choice(functions.split())}({name}[{rng.choice(DURATIONS)}] {kind}{self.modifiers()})"

    def computed(self):
        """A range or offset that is computed."""
        rng = self.rng
        length = rng.choice([
            "1m * 2", "5m - 1m", "2 ^ 7", "300 / 2", "step() + 1m", "max_of(1m, step())", "min_of(2m, 5m) * 2", "(1 + 2) * 30s", "7m % 2m",
        ])
        if rng.random() < 0.3:
            return f"{rng.choice(FLOATS[:2])} offset ({length})"
        return f"{rng.choice(['rate', 'sum_over_time', 'count_over_time'])}({rng.choice(FLOATS[:2])}[{length}])"

    def over_range(self, depth):
        rng = self.rng
        simple = (
            "rate increase delta idelta irate deriv resets changes avg_over_time sum_over_time min_over_time "
            "max_over_time count_over_time last_over_time first_over_time present_over_time absent_over_time stddev_over_time "
            "stdvar_over_time mad_over_time ts_of_max_over_time ts_of_min_over_time ts_of_last_over_time ts_of_first_over_time"
        ).split()
        choice = rng.random()
        if choice < 0.82:
            return f"{rng.choice(simple)}({self.matrix(depth)})"
        if choice < 0.9:
            return f"quantile_over_time({rng.choice(['0', '0.5', '0.9', '1', '-1', '2', 'NaN'])}, {self.matrix(depth)})"
        if choice < 0.96:
            return f"predict_linear({self.matrix(depth)}, {rng.choice(['60', '-300', '3600'])})"
        return f"double_exponential_smoothing({self.matrix(depth)}, {rng.choice(['0.1', '0.5'])}, {rng.choice(['0.3', '0.9'])})"

    def function(self, depth):
        rng = self.rng
        simple = (
            "abs ceil floor exp ln log2 log10 sqrt sgn sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh deg rad "
            "timestamp sort sort_desc minute hour day_of_week day_of_month day_of_year days_in_month month year absent"
        ).split()
        inner = self.vector(depth)
        return rng.choice([
            lambda: f"{rng.choice(simple)}({inner})",
            lambda: f"{rng.choice(simple)}({inner})",
            lambda: f"{rng.choice(simple)}({inner})",
            lambda: f"round({inner}{rng.choice(['', ', 0.1', ', 7', ', 0', ', -3'])})",
            lambda: f"clamp({inner}, {self.scalar(0)}, {self.scalar(0)})",
            lambda: f"clamp_min({inner}, {self.scalar(0)})",
            lambda: f"clamp_max({inner}, {self.scalar(0)})",
            lambda: f"vector({self.scalar(depth)})",
            lambda: f'label_replace({inner}, "{rng.choice(["job", "new", "code"])}", "{rng.choice(["$1", "x", "", "${1}y"])}", "{rng.choice(["job", "code", "none"])}", "{rng.choice(["(.*)", "a(.)i", "", "5(.*)"])}")',
            lambda: f'label_join({inner}, "new", "-", "job", "code")',
            # Labels that are absent have no order in Prometheus.
            lambda: f"sort_by_label({inner}, \"job\")",
            lambda: f"sort_by_label_desc({inner}, \"job\")",
        ])()

    def aggregation(self, depth):
        rng = self.rng
        grouping = rng.choice(["", "", " by (job)", " by (job, code)", " without (instance)", " without (job, code)", " by ()", " by (le)", " by (none)"])
        inner = self.vector(depth)
        op = rng.choice("sum sum avg avg min max count group stddev stdvar topk bottomk quantile count_values limit_ratio".split())
        if op in ("topk", "bottomk"):
            # Which of equal values are picked is open: so their values are asked for, not their labels.
            k = rng.choice(["1", "2", "5", "0", "-1"])
            return f"sum ({op} ({k}, {inner}))"
        if op == "quantile":
            return f"quantile{grouping} ({rng.choice(['0', '0.3', '0.5', '0.99', '1', '1.5', '-0.1'])}, {inner})"
        if op == "count_values":
            # Bounds of histograms in a text may differ in their last digit.
            return f'count_values{grouping} ("{rng.choice(["value", "job"])}", {rng.choice(FLOATS[:5])}{self.modifiers()})'
        if op == "limit_ratio":
            return f"limit_ratio{grouping} ({rng.choice(['0.5', '-0.5', '1', '0.1', '-0.9'])}, {inner})"
        return f"{op}{grouping} ({inner})"

    def binary(self, depth):
        rng = self.rng
        op = rng.choice(["+", "-", "*", "/", "%", "^", "atan2", "==", "!=", ">", "<", ">=", "<="])
        compares = op in ("==", "!=", ">", "<", ">=", "<=")
        boolean = " bool" if compares and rng.random() < 0.4 else ""
        kind = rng.random()
        if kind < 0.3:
            return f"{self.operand(depth)} {op}{boolean} {self.scalar(depth)}"
        if kind < 0.45:
            return f"{self.scalar(depth)} {op}{boolean} {self.operand(depth)}"
        if kind < 0.65:
            on = rng.choice(["", " on (job)", " ignoring (code)", " on ()", " ignoring (instance, le)"])
            return f"{self.operand(depth)} {rng.choice(['and', 'or', 'unless'])}{on} {self.operand(depth)}"
        matching = rng.choice([
            "", " on (job)", " ignoring (code)", " ignoring (code, instance, le)", " on (job) group_left", " on (job) group_right",
            " ignoring (code) group_left (version)", " on (job, instance) group_left (le)", " on ()", " on () group_left",
        ])
        if rng.random() < 0.15:
            matching += rng.choice([" fill (0)", " fill_left (1)", " fill_right (-1)", " fill_left (0) fill_right (2)"])
        right = self.operand(depth)
        if "group" in matching and rng.random() < 0.7:
            right = f"max by (job) ({right})" if "right" not in matching else right
        return f"{self.operand(depth)} {op}{boolean}{matching} {right}"

    def histogram_call(self, depth):
        rng = self.rng
        series = rng.choice(HISTOGRAMS + ["took_bucket"])
        over = rng.choice(["{}", "rate({}[{}])", "increase({}[{}])", "sum_over_time({}[{}])", "avg_over_time({}[{}])", "irate({}[{}])", "last_over_time({}[{}])"])
        inner = over.format(series, rng.choice(DURATIONS))
        if rng.random() < 0.4:
            inner = f"{rng.choice(['sum', 'avg'])}{rng.choice(['', ' by (job, le)', ' by (le)'])} ({inner})"
        q = rng.choice(["0.01", "0.1", "0.5", "0.99", "1", "-1", "1.1", "NaN"])
        return rng.choice([
            lambda: f"histogram_quantile({q}, {inner})",
            lambda: f"histogram_quantile({q}, {inner})",
            lambda: f"histogram_fraction({rng.choice(['0', '-Inf', '0.2', '1'])}, {rng.choice(['1', '2', 'Inf', '5'])}, {inner})",
            lambda: f"histogram_{rng.choice(['count', 'sum', 'avg', 'stddev', 'stdvar'])}({inner})",
            lambda: f'histogram_quantiles({inner}, "q", 0.5, {q})',
            lambda: f"{inner} {rng.choice(['+', '-', '*', '/', '==', '!='])} {rng.choice([inner, '2', series])}",
        ])()

    def special(self, depth):
        rng = self.rng
        return rng.choice([
            lambda: f"-{self.operand(depth)}",
            lambda: f"absent({self.selector()})",
            lambda: f"info({self.vector(0)}{rng.choice(INFO_MATCHERS)})",
            lambda: f"({self.vector(depth)})",
            self.extended,
            self.computed,
            lambda: f"{rng.choice(['minute', 'hour', 'year', 'month'])}()",
        ])()

    def query(self):
        rng = self.rng
        kind = rng.random()
        if kind < 0.04:
            return self.scalar(3)
        if kind < 0.08:
            return self.matrix(2)
        return self.vector(rng.choice([1, 2, 2, 3]))


def job(seed, queries):
    """Series, and that many queries over them, half of them over a range of times."""
    rng = random.Random(seed)
    series = Series(rng).lines()
    asked = []
    writer = Queries(rng)
    for _ in range(queries):
        expr = writer.query()
        # On the points, between them and after the last.
        start = rng.choice([0, 7_000, 300_000, 607_000, END_MS // 2])
        if rng.random() < 0.5 or expr.endswith("]"):
            asked.append({"expr": expr, "time": rng.choice([start, END_MS, END_MS + 200_000, rng.randint(0, END_MS)])})
        else:
            step = rng.choice([15_000, 60_000, 37_000, 300_000])
            asked.append({"expr": expr, "start": start, "end": start + step * rng.choice([1, 7, 20]), "step": step})
    delayed = seed % 2 == 0
    return {"interval_ms": INTERVAL_MS, "delayed_name_removal": delayed, "series": series, "queries": asked}
