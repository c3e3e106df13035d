"""Requests on their way to a command: FIFO, acceptance, and the two queues of a channel as one chain a bank.

Chains are in order of acceptance. For each bank and queue the oldest row hit is known, and two bits per channel
say whether the bank has a row hit to serve and whether it wants a row command; so choosing what goes next looks
at banks, never at requests.
"""


import sim.dram.layout as L
from sim.dram.jit import index, inlined, jitted


@inlined
def pseudo_of(c, ch, bank):  # type: ignore[no-untyped-def]
    return index(ch + c[L.PSEUDO_AT] + (bank >> c[L.BANK_SHIFT]) * c[L.PSEUDO_SIZE])


@inlined
def group_of(c, ch, bank):  # type: ignore[no-untyped-def]
    return index(ch + c[L.GROUP_AT] + (bank >> c[L.GROUP_SHIFT]) * L.GROUP_COLUMNS)


@inlined
def bank_at(c, ch, bank):  # type: ignore[no-untyped-def]
    return index(ch + c[L.BANK_AT] + bank * L.BANK_COLUMNS)


@inlined
def pseudo_at(c, ch, p):  # type: ignore[no-untyped-def]
    return index(ch + c[L.PSEUDO_AT] + p * c[L.PSEUDO_SIZE])


@inlined
def row_of(code):  # type: ignore[no-untyped-def]
    return (code >> L.ROW_PLACE) & L.ROW_MASK


@jitted
def classify(c, m, ch, number, w):  # type: ignore[no-untyped-def]
    """Find the oldest row hit of a bank in queue w, and set its two bits."""
    ch = index(ch)
    bank, bit = bank_at(c, ch, number), 1 << number
    chain = index(bank + w * L.QUEUE_COLUMNS)
    first, row = index(m[chain + L.FIRST]), m[bank + L.OPEN_ROW]
    hit, wants_row = 0, first > 0
    if first > 0 and row >= 0:
        hit = first
        while hit > 0 and row_of(m[ch + hit + L.CODE]) != row:
            hit = index(m[ch + hit + L.NEXT])
        wants_row = hit != first
        if not wants_row and c[L.UNPROTECTED]:
            wants_row = first_miss(m, ch, first, row) > 0
        elif wants_row and m[bank + L.COLUMNS] >= c[L.CAP]:
            hit = 0  # an older request has waited for its row long enough
    m[chain + L.HIT] = hit
    m[ch + L.HITS + w] = m[ch + L.HITS + w] & ~bit | (bit if hit > 0 else 0)
    m[ch + L.ROWS + w] = m[ch + L.ROWS + w] & ~bit | (bit if wants_row else 0)


@inlined
def first_miss(m, ch, slot, row):  # type: ignore[no-untyped-def]
    """The oldest request of a chain that is for another row, or 0."""
    while slot > 0 and row_of(m[ch + slot + L.CODE]) == row:
        slot = index(m[ch + slot + L.NEXT])
    return slot


@inlined
def unlink(m, ch, chain, slot):  # type: ignore[no-untyped-def]
    """Take a request out of its chain; the slot stays in use."""
    after, before = m[ch + slot + L.NEXT], index(m[chain + L.FIRST])
    if before == slot:
        m[chain + L.FIRST] = after
        before = 0
    else:
        while m[ch + before + L.NEXT] != slot:
            before = index(m[ch + before + L.NEXT])
        m[ch + before + L.NEXT] = after
    if after == 0:
        m[chain + L.LAST] = before


@inlined
def forget(m, ch, slot):  # type: ignore[no-untyped-def]
    """Give the slot of a served request back."""
    m[ch + slot + L.NEXT] = m[ch + L.FREE_SLOT]
    m[ch + L.FREE_SLOT] = slot


@inlined
def _drop_returned(c, m, ps, a):  # type: ignore[no-untyped-def]
    """Forget the reads whose data are back by `a`."""
    head, count = index(m[ps + L.RING_HEAD]), m[ps + L.RING_COUNT]
    while count > 0 and m[index(ps + L.RING + head)] <= a:
        head = head + 1 if head + 1 < c[L.OUTSTANDING] else 0
        count -= 1
    m[ps + L.RING_HEAD], m[ps + L.RING_COUNT] = head, count


@inlined
def _has_room(c, m, ch, ps, write, a):  # type: ignore[no-untyped-def]
    """The first time from `a` on at which the queues would take that request, FOREVER while only a command can help."""
    if write:
        return a if m[ch + L.QUEUED_WRITES] < c[L.WRITE_ROOM] else L.FOREVER
    if m[ch + L.QUEUED] >= c[L.READ_ROOM] or m[ps + L.READS_QUEUED] >= c[L.OUTSTANDING]:
        return L.FOREVER
    _drop_returned(c, m, ps, a)
    if m[ps + L.READS_QUEUED] + m[ps + L.RING_COUNT] < c[L.OUTSTANDING]:
        return a
    return m[index(ps + L.RING + m[ps + L.RING_HEAD])]


@inlined
def _offer_head(c, m, ch, ps):  # type: ignore[no-untyped-def]
    """Note when the head of that FIFO will be accepted, as far as is known."""
    time = L.FOREVER
    if m[ps + L.FIFO_COUNT] > 0:
        entry = index(m[ps + L.FIFO_BASE] + 2 * m[ps + L.FIFO_HEAD])
        a = max(m[entry + 1], m[ps + L.OFFER])
        time = _has_room(c, m, ch, ps, m[entry] & 1, a)
    m[ps + L.ADMIT_AT] = time


@inlined
def _first_offer(c, m, ch):  # type: ignore[no-untyped-def]
    """Note which FIFO's head is accepted next."""
    best, chosen = L.FOREVER, 0
    for p in range(c[L.PSEUDO]):
        t = m[pseudo_at(c, ch, p) + L.ADMIT_AT]
        if t < best:
            best, chosen = t, p
    m[ch + L.ADMIT_TIME], m[ch + L.ADMIT_PSEUDO] = best, chosen


@inlined
def offer_again(c, m, ch, t):  # type: ignore[no-untyped-def]
    """A queue has room since tick t: offer the heads that waited for it."""
    for p in range(c[L.PSEUDO]):
        ps = pseudo_at(c, ch, p)
        if m[ps + L.ADMIT_AT] == L.FOREVER and m[ps + L.FIFO_COUNT] > 0:
            m[ps + L.OFFER] = max(m[ps + L.OFFER], t)
            _offer_head(c, m, ch, ps)
    _first_offer(c, m, ch)


@inlined
def next_place(c, m, ch, p):  # type: ignore[no-untyped-def]
    """Where the next entry of FIFO p goes; its second integer is the time since when that place is free."""
    ps = pseudo_at(c, ch, p)
    place = m[ps + L.FIFO_HEAD] + m[ps + L.FIFO_COUNT]
    if place >= c[L.FIFO_ROOM]:
        place -= c[L.FIFO_ROOM]
    return index(m[ps + L.FIFO_BASE] + 2 * place)


@inlined
def push_fifo(c, m, ch, p, code, available):  # type: ignore[no-untyped-def]
    """Put a burst at the end of FIFO p of the channel."""
    ps = pseudo_at(c, ch, p)
    entry = next_place(c, m, ch, p)
    m[entry], m[entry + 1] = code, available
    m[ps + L.FIFO_COUNT] += 1
    if m[ps + L.FIFO_COUNT] == 1:
        _offer_head(c, m, ch, ps)
        _first_offer(c, m, ch)
        next_at = index(c[L.NEXT_AT] + m[ch + L.NUMBER])
        m[next_at] = min(m[next_at], m[ch + L.ADMIT_TIME] + 1)


@inlined
def _take_slot(c, m, ch, p, a):  # type: ignore[no-untyped-def]
    """Move the head of FIFO p into a slot at time `a`; returns the slot."""
    ps = pseudo_at(c, ch, p)
    head = m[ps + L.FIFO_HEAD]
    entry = index(m[ps + L.FIFO_BASE] + 2 * head)
    slot = index(m[ch + L.FREE_SLOT])
    m[ch + L.FREE_SLOT] = m[ch + slot + L.NEXT]
    m[ch + slot + L.CODE], m[ch + slot + L.AVAILABLE] = m[entry], m[entry + 1]
    m[ch + slot + L.ACCEPTED], m[ch + slot + L.NEXT] = a, 0
    m[ch + slot + L.PLACE] = m[ch + L.ORDER]
    m[ch + L.ORDER] += 1
    if m[ps + L.WAITING] == 0:
        m[ps + L.WAITING_SINCE] = a + 1
    m[ps + L.WAITING] += 1
    m[entry + 1] = a  # the place is free from now on
    m[ps + L.FIFO_HEAD] = head + 1 if head + 1 < c[L.FIFO_ROOM] else 0
    m[ps + L.FIFO_COUNT] -= 1
    m[ps + L.OFFER] = a + 1
    return slot


@inlined
def accept(c, m, ch):  # type: ignore[no-untyped-def]
    """Accept the next head of a FIFO; returns its bank and queue. It can be served from the tick after."""
    ch = index(ch)
    a, p = m[ch + L.ADMIT_TIME], m[ch + L.ADMIT_PSEUDO]
    slot = _take_slot(c, m, ch, p, a)
    code = m[ch + slot + L.CODE]
    w, number = code & 1, (code >> 1) & L.BANK_MASK
    m[index(ch + L.QUEUED + w)] += 1
    if w:
        m[L.LAST_ACCEPTED] = max(m[L.LAST_ACCEPTED], a)
    else:
        _drop_returned(c, m, pseudo_at(c, ch, p), a)
        m[pseudo_at(c, ch, p) + L.READS_QUEUED] += 1
    _offer_head(c, m, ch, pseudo_at(c, ch, p))
    if m[index(ch + L.QUEUED + w)] == (c[L.WRITE_ROOM] if w else c[L.READ_ROOM]):
        for other in range(c[L.PSEUDO]):  # their heads were promised the same room
            _offer_head(c, m, ch, pseudo_at(c, ch, other))
    _first_offer(c, m, ch)
    chain = index(bank_at(c, ch, number) + w * L.QUEUE_COLUMNS)
    last = index(m[chain + L.LAST])
    if last > 0:
        m[ch + last + L.NEXT] = slot
    else:
        m[chain + L.FIRST] = slot
    m[chain + L.LAST] = slot
    return number, w, slot, a
