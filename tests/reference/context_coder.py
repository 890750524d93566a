"""The context coder of `*.pomona`, decoded from docs/format.md alone: plain, slow, literal."""

from __future__ import annotations

from dataclasses import dataclass, field

from .pomona_file import require

HALF = 2**15


def within(x: int, least: int, most: int) -> int:
    return min(max(x, least), most)


def towards_zero(a: int, b: int) -> int:
    return a // b if a >= 0 else -(-a // b)


# Binary decisions.


class Decisions:
    """The arithmetic decoder."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.low, self.high = 0, 2**32 - 1
        self.number = 0
        self.shifted = 0
        for _ in range(4):
            self.number = self.number << 8 | self.next()

    def next(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def decide(self, p: int = HALF) -> bool:
        middle = self.low + ((self.high - self.low) * p >> 16)
        bit = self.number <= middle
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while self.low >> 24 == self.high >> 24:
            self.low = self.low << 8 & 0xFFFFFFFF
            self.high = self.high << 8 & 0xFFFFFFFF | 0xFF
            self.number = self.number << 8 & 0xFFFFFFFF | self.next()
            self.shifted += 1
        return bit

    def finish(self) -> None:
        for k in range(5):
            step = 2 ** (32 - 8 * k)
            least = -(-self.low // step) * step
            if least <= self.high:
                require(self.number == least, "decisions that end in another way")
                require(len(self.data) == self.shifted + k, "bytes left over, or missing")
                return


# Predictions.


def make_log_table() -> list[int]:
    table = []
    for i in range(256):
        z = (i << 32) // (512 + i)
        total, power, k = 0, z, 1
        while power:
            total += power // k
            power = ((power * z >> 32) * z) >> 32
            k += 2
        table.append(total >> 7)
    return table


LOG_TABLE = make_log_table()


def log(x: int) -> int:
    h = x.bit_length() - 1
    i = x >> (h - 8) & 255 if h >= 8 else x << (8 - h) & 255
    return (h * 11629080 + LOG_TABLE[i]) >> 16


def logit(p: int) -> int:
    i = p >> 4
    return log(2 * i + 1) - log(8191 - 2 * i)


def make_probabilities() -> list[int]:
    """Of 0, -1, ..., -2815."""
    table = []
    e = 2**31
    for _ in range(2816):
        table.append(((e << 16) + (2**31 + e) // 2) // (2**31 + e))
        e = (e * 4278222805 + 2**31) >> 32
    return table


PROBABILITIES = make_probabilities()


def probability(x: int) -> int:
    x = within(x, -2815, 2815)
    q = PROBABILITIES[abs(x)]
    return within(q if x <= 0 else 65536 - q, 4, 65532)


def surplus(k: int, e: int, a: int) -> int:
    return within(log(k + a) - log(e + a), -1500, 1500)


@dataclass
class Counter:
    limit: int
    big_p: int = 2**21
    n: int = 0

    @property
    def p(self) -> int:
        return self.big_p >> 6

    @property
    def shy_logit(self) -> int:
        return logit(self.p) * (4096 * (4 * self.n + 1) // (4 * self.n + 6)) >> 12

    def learn(self, bit: bool) -> None:
        rate = 131072 // (2 * self.n + 3)
        self.big_p += ((2**22 - 1 if bit else 0) - self.big_p) * rate >> 16
        if self.n < self.limit:
            self.n += 1


@dataclass
class Residual:
    k: int = 0
    e: int = 0

    @property
    def logit(self) -> int:
        return surplus(self.k, self.e, 45056)

    def learn(self, bit: bool, p: int) -> None:
        self.k += int(bit) << 16
        self.e += p
        if self.k >= 2**27 or self.e >= 2**27:
            self.k //= 2
            self.e //= 2


class Mixer:
    def __init__(self, weights: list[int], slow: int, fast: int, span: int) -> None:
        self.weights = weights
        self.rates = slow, fast, span
        self.contexts: dict[int, tuple[list[int], list[int]]] = {}

    def mix(self, logits: list[int], context: int) -> int:
        self.used, self.n = self.contexts.setdefault(context, (list(self.weights), [0]))
        self.logits = logits
        total = sum(w * x >> 4 for w, x in zip(self.used, logits, strict=True)) >> 12
        self.x = within(total, -2815, 2815)
        return self.x

    def learn(self, bit: bool) -> None:
        slow, fast, span = self.rates
        error = (65535 if bit else 0) - probability(self.x)
        s = error * (slow + fast * span // (span + self.n[0])) >> 10
        for i, x in enumerate(self.logits):
            self.used[i] = within(self.used[i] + (s * x >> 12), -(2**18), 2**18)
        self.n[0] = min(self.n[0] + 1, 65535)


@dataclass
class Matrix:
    rows: int
    columns: int
    inner: int

    @property
    def period(self) -> int:
        if self.inner > 1:
            return self.inner
        for channels in (1, 3):
            width = 4
            while channels * width * width < self.columns:
                width += 1
            if channels * width * width == self.columns:
                return width
        return 0


# Masks.

MASK_WEIGHTS = [65536, 34000, 5000, 40000, 37000, 8500, 4500, 10000, 1000]


def read_lines(decisions: Decisions, count: int, width: int) -> list[int]:
    counters = [Counter(30) for _ in range(8)]
    flags: list[bool] = []
    for line in range(count):
        context = int(flags[line - 1]) if line else 1
        if width and line >= width:
            context += 2 * flags[line - width]
        if width and line >= width - 1:
            context += 4 * flags[line - width + 1]
        counter = counters[context]
        flags.append(decisions.decide(within(counter.p, 64, 65472)))
        counter.learn(flags[line])
    return [line for line, flag in enumerate(flags) if flag]


class Lines:
    """The lines that are left along one side, and which lies a period before and ahead."""

    def __init__(self, numbers: list[int], period: int) -> None:
        place = {number: i for i, number in enumerate(numbers)} if period else {}
        self.numbers = numbers
        self.period = period
        self.back = [place.get(number - period) for number in numbers]
        self.ahead = [place.get(number + period) for number in numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def back_of(self, line: int | None) -> int | None:
        return None if line is None else self.back[line]

    def ahead_of(self, line: int | None) -> int | None:
        return None if line is None else self.ahead[line]

    def near(self, c: int) -> list[int]:
        back, ahead = self.back[c], self.ahead[c]
        places = [c - 2, c - 1, c + 1, c + 2]
        places += [] if back is None else [back - 1, back, back + 1]
        places += [] if ahead is None else [ahead - 1, ahead, ahead + 1]
        places += [x for x in (self.back_of(back), self.ahead_of(ahead)) if x is not None]
        return [x for x in places if 0 <= x < len(self)]


class MaskModel:
    """The weights that are left, row by row."""

    def __init__(self, rows: Lines, columns: Lines, kept: int) -> None:
        self.rows, self.columns = rows, columns
        self.left = len(rows) * len(columns)
        self.kept_left = kept
        self.kept_before = 0  # in the rows before
        self.k = [0] * len(columns)
        self.big_k = [0] * len(columns)
        self.near = [columns.near(c) for c in range(len(columns))]
        self.big_n = [2] * len(columns)
        for near in self.near:
            for x in near:
                self.big_n[x] += 1
        self.bits: dict[tuple[int, int], bool] = {}
        self.expected: dict[tuple[int, int], int] = {}
        self.residuals: list[dict[int, Residual]] = [{}, {}, {}]
        rates = 170, 1000, 230
        self.mixers = [Mixer(MASK_WEIGHTS, *rates), Mixer(MASK_WEIGHTS, *rates)]

    def begin_row(self, r: int) -> None:
        self.r = r
        self.e = (self.kept_before << 16) // len(self.columns)
        k = max(self.kept_left, 0)
        j = max(self.left - k, 0)
        self.mean = within(log((k << 16) + 8192) - log((j << 16) + 8192), -2500, 2500)
        self.row_kept, self.row_expected = 0, 0
        self.since = 0  # weights since the last kept one
        self.run = [0, 0]

    def bit(self, y: int | None, x: int | None) -> int:
        if y is None or x is None or y < 0 or not 0 <= x < len(self.columns):
            return 0
        return int(self.bits.get((y, x), False))

    def around(self, r: int, c: int) -> int:
        b, y = self.columns.back[c], self.rows.back[r]
        d = self.columns.back_of(b)
        places = [(r, c - i) for i in range(1, 5)] + [(r - i, c) for i in range(1, 5)]
        places += [] if b is None else [(r, b + i) for i in range(-3, 4)]
        places += [] if d is None else [(r, d + i) for i in range(-2, 3)]
        places += [] if y is None else [(y + i, c) for i in range(-3, 4)]
        there = [
            (v, u)
            for v, u in places
            if (v == r and 0 <= u < c) or (u == c and 0 <= v < r)
        ]  # fmt: skip
        m = sum(self.bit(v, u) for v, u in there)
        return surplus(m << 16, sum(self.expected[place] for place in there), 45056)

    def contexts(self, r: int, c: int) -> list[int]:
        bit = self.bit
        b = self.columns.back[c]
        first = [
            bit(r, b), bit(self.rows.back[r], c), bit(r - 1, c), bit(r, c - 1), bit(r, c - 2),
            bit(r - 2, c),
        ]  # fmt: skip
        second = [bit(r, c - 1), bit(r, c - 2)]
        if b is None:
            second += [0, 0, 0, 0]
        else:
            second += [bit(r, b), bit(r, b - 1), bit(r, b + 1), bit(r, self.columns.back[b])]
        numbers, period = self.columns.numbers, self.columns.period
        if c > 0 and period and numbers[c] // period != numbers[c - 1] // period:
            self.run = [0, 0]
        coded, kept = self.run
        return [
            sum(bit << i for i, bit in enumerate(first)),
            sum(bit << i for i, bit in enumerate(second)),
            16 * min(kept, 9) + min(coded, 15),
        ]

    def decide(self, decisions: Decisions, c: int) -> bool:
        r = self.r
        quick = surplus(self.k[c] << 16, self.e, 81920)
        slow = surplus(self.k[c] << 16, self.e, 294912)
        nearby = surplus(self.big_k[c] << 16, self.big_n[c] * self.e, 1703936)
        row = surplus(self.row_kept << 16, self.row_expected, 163840)
        p = probability(self.mean + nearby + row)
        self.expected[r, c] = p
        used = [
            residuals.setdefault(context, Residual())
            for residuals, context in zip(self.residuals, self.contexts(r, c), strict=True)
        ]
        logits = [self.mean, slow, quick, nearby, row, *(u.logit for u in used), self.around(r, c)]
        by_density = within(towards_zero(quick + 768, 128), 0, 11)
        g = self.since + 1
        h = g.bit_length() - 1
        by_gap = min(2 * h + (g >> (h - 1) & 1 if h else 0), 23)
        x = self.mixers[0].mix(logits, by_density)
        y = self.mixers[1].mix(logits, by_gap)
        kept = decisions.decide(probability((x + y) >> 1))
        for mixer in self.mixers:
            mixer.learn(kept)
        for residual in used:
            residual.learn(kept, p)
        self.row_expected += probability(self.mean + nearby)
        self.remember(r, c, kept)
        return kept

    def remember(self, r: int, c: int, kept: bool) -> None:
        self.bits[r, c] = kept
        self.left -= 1
        self.run[0] += 1
        self.since += 1
        if not kept:
            return
        self.since = 0
        self.run[1] += 1
        self.kept_left -= 1
        self.row_kept += 1
        self.k[c] += 1
        self.big_k[c] += 2
        for x in self.near[c]:
            self.big_k[x] += 1

    def end_row(self) -> None:
        self.kept_before += self.row_kept


def decode_mask(data: bytes, matrix: Matrix, kept: int) -> list[int]:
    """The positions of the kept weights, ascending."""
    if matrix.rows * matrix.columns == 0:
        require(data == b"", "bytes of an empty matrix")
        return []
    decisions = Decisions(data)
    is_transposed = decisions.decide()
    period = matrix.period if matrix.period and decisions.decide() else 0
    width = period if matrix.inner <= 1 else 0
    rows = Lines(read_lines(decisions, matrix.rows, 0), 0)
    columns = Lines(read_lines(decisions, matrix.columns, width), period)
    if is_transposed:
        rows, columns = columns, rows
    positions = []
    model = MaskModel(rows, columns, kept)
    for r, line in enumerate(rows.numbers):
        model.begin_row(r)
        for c, other in enumerate(columns.numbers):
            if model.decide(decisions, c):
                y, x = (other, line) if is_transposed else (line, other)
                positions.append(y * matrix.columns + x)
        model.end_row()
    decisions.finish()
    return sorted(positions)


# Codes.

CODE_WEIGHTS = [0, 7200, 8000, 13500, 12600, 5000, 7500, 0]


@dataclass
class Line:
    kept: int = 0
    n: int = 0
    magnitudes: int = 0
    signed: int = 0
    last: int | None = None


@dataclass
class CodeModel:
    matrix: Matrix
    kept: set[int]
    alphabet: int
    period: int  # 0: none
    codes: dict[int, int] = field(default_factory=dict)  # by position

    def __post_init__(self) -> None:
        self.rows = [Line() for _ in range(self.matrix.rows)]
        self.columns = [Line() for _ in range(self.matrix.columns)]
        for i in self.kept:
            self.rows[i // self.matrix.columns].kept += 1
            self.columns[i % self.matrix.columns].kept += 1
        self.counters: list[dict[tuple[int, int], Counter]] = [{} for _ in range(7)]
        rates = 110, 330, 87
        self.mixers = [Mixer(CODE_WEIGHTS, *rates), Mixer(CODE_WEIGHTS, *rates)]

    def place(self, r: int, c: int) -> int | None:
        inside = 0 <= r < self.matrix.rows and 0 <= c < self.matrix.columns
        return r * self.matrix.columns + c if inside else None

    def code(self, r: int, c: int) -> int | None:
        place = self.place(r, c)
        return None if place is None else self.codes.get(place)

    def twice(self, code: int) -> int:
        return 2 * code + 1 - self.alphabet

    def size(self, line: Line) -> int:
        h = self.alphabet // 2 + 1
        return min(3, (4 * line.magnitudes + h) // (h * (line.n + 1)))

    def side(self, line: Line) -> int:
        scale = (line.n + 2) * self.alphabet // 2 + 1
        return within(towards_zero(6 * line.signed, scale), -3, 3) + 3

    def density(self, line: Line, length: int) -> int:
        return min(5, (length // (2 * line.kept + 1)).bit_length())

    def third(self, r: int, c: int) -> int:
        code = self.code(r, c)
        return 3 if code is None else 3 * code // self.alphabet

    def neighbours(
        self, r: int, c: int
    ) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
        """((row, column, weight) of sum and count, places of crowd)."""
        w, inner = self.period, self.matrix.inner
        if inner > 1:
            begin = c - c % inner
            window = [(r, x) for x in range(begin, begin + inner)]
            return [(y, x, 1) for y, x in window], window
        if w:
            weighted = [
                (r, c - 1, 2), (r, c - w, 2), (r, c - 2, 1), (r, c - w - 1, 1), (r, c - w + 1, 1),
                (r, c - 2 * w, 1),
            ]  # fmt: skip
            around = [c - 1, c + 1, *(c - w + i for i in (-1, 0, 1))]
            around += [c + w + i for i in (-1, 0, 1)]
            return weighted, [(r, x) for x in around]
        weighted = [(r, c - 1, 1), (r, c - 2, 1), (r - 1, c, 1), (r - 2, c, 1)]
        crowd = [(r, c + d) for d in (-2, -1, 1, 2)] + [(r + d, c) for d in (-2, -1, 1, 2)]
        return weighted, crowd

    def contexts(self, r: int, c: int) -> list[int]:
        row, column = self.rows[r], self.columns[c]
        weighted, around = self.neighbours(r, c)
        total = count = 0
        for y, x, weight in weighted:
            code = self.code(y, x)
            if code is not None:
                total += weight * self.twice(code)
                count += weight
        crowd = min(8, sum(self.place(y, x) in self.kept for y, x in around))
        trend = 0
        if count:
            q = self.alphabet * (count + 1)
            trend = 1 + within((4 * total + 5 * q) // q, 0, 9)
        beside = self.third(r, c - self.period) if self.period else self.third(r - 1, c)
        return [
            0,
            4 * self.size(row) + self.size(column),
            8 if row.last is None else 8 * row.last // self.alphabet,
            6 * self.density(row, self.matrix.columns) + self.density(column, self.matrix.rows),
            16 * self.third(r, c - 1) + 4 * beside + self.third(r - 1, c),
            7 * self.side(row) + self.side(column),
            9 * trend + crowd,
        ]

    def decode(self, decisions: Decisions, i: int) -> None:
        r, c = divmod(i, self.matrix.columns)
        contexts = self.contexts(r, c)
        bits = (self.alphabet - 1).bit_length()
        node = 1
        for done, bit in enumerate(reversed(range(bits))):
            if ((2 * node + 1) << bit) - (1 << bits) >= self.alphabet:
                node = 2 * node
                continue
            used = [
                counters.setdefault((context, node), Counter(1000))
                for counters, context in zip(self.counters, contexts, strict=True)
            ]
            logits = [*(u.shy_logit for u in used), 256]
            x = self.mixers[0].mix(logits, done)
            y = self.mixers[1].mix(logits, node)
            decided = decisions.decide(probability((x + y) >> 1))
            for learner in (*self.mixers, *used):
                learner.learn(decided)
            node = 2 * node + decided
        self.remember(r, c, node - (1 << bits))

    def remember(self, r: int, c: int, code: int) -> None:
        t = self.twice(code)
        self.codes[r * self.matrix.columns + c] = code
        for line in (self.rows[r], self.columns[c]):
            line.n += 1
            line.magnitudes += abs(t) // 2
            line.signed += t
            line.last = code


def decode_codes(data: bytes, matrix: Matrix, positions: list[int], alphabet: int) -> list[int]:
    """A code for each position."""
    if alphabet == 1 or not positions:
        require(data == b"", "bytes where codes take none")
        return [0] * len(positions)
    decisions = Decisions(data)
    period = matrix.period
    if period and matrix.inner == 1 and not decisions.decide():
        period = 0
    model = CodeModel(matrix, set(positions), alphabet, period)
    for i in positions:
        model.decode(decisions, i)
    decisions.finish()
    return [model.codes[i] for i in positions]
