"""Writes vectors/runs.json and vectors/runs_bad.json from docs/spec/16-runs.md alone.

It shares nothing with the program. It needs PyPI `blake3`:

    python3 crates/protocol/reference/runs.py
"""

import json
import pathlib

from blake3 import blake3

VECTORS = pathlib.Path(__file__).resolve().parents[3] / "vectors"


def h(text):
    return blake3(text.encode()).digest()


RUN, PARENT, BEACON = h("run"), h("parent"), h("beacon")
TRAINERS = sorted(h(f"trainer {number}") for number in range(4))
VALIDATORS = [h(f"validator {number}") for number in range(5)]


def keyed(context, *facts):
    return blake3(b"".join(facts), derive_key_context=context).digest()


def u64(number):
    return number.to_bytes(8, "little")


def u32(number):
    return number.to_bytes(4, "little")


def work(name, steps=30, start=None, carry=True):
    """Fields in the order of their names."""
    return {
        "contribution": h(f"contribution {name}").hex(),
        "firstLoss": 0x40400000,
        "lastLoss": 0x403999A0,
        "localEnd": h(f"local {name}").hex() if carry else None,
        "localStart": start,
        "log": h(f"log {name}").hex(),
        "steps": steps,
    }


def commitment(index, trainer, account, done):
    """Section 5."""
    facts = [RUN, u64(index), PARENT, trainer, account, bytes.fromhex(done["contribution"])]
    facts += [u32(done["firstLoss"]), u32(done["lastLoss"])]
    for local in [done["localEnd"], done["localStart"]]:
        facts.append(bytes([local is not None]) + (bytes.fromhex(local) if local else bytes(32)))
    facts += [bytes.fromhex(done["log"]), u32(done["steps"])]
    return keyed("hearth run commitment 1", *facts)


def loss_key(losses):
    """Section 7."""
    return keyed("hearth run losses 1", *[u32(loss) for loss in losses])


def seal(validator, losses):
    """Section 7."""
    return keyed("hearth run replay 2", validator, loss_key(losses))


def is_drawn(beacon, index, trainer, per_mille):
    """Section 7."""
    word = keyed("hearth run audit 1", beacon, RUN, u64(index), trainer)[:8]
    return int.from_bytes(word, "little") % 1000 < per_mille


def is_checked_twice(beacon, index, trainer):
    """Section 7."""
    return keyed("hearth run second audit 1", beacon, u64(index), trainer)[0] % 8 == 0


def order(context, *facts):
    """Sections 6 and 7."""
    return sorted(VALIDATORS, key=lambda validator: keyed(context, *facts, validator))


def account(byte):
    return "0x" + bytes([byte] * 20).hex()


def book(**changes):
    """Section 4."""
    stated = {
        "audits": [
            {"auditors": [account(1), account(2)], "index": 5, "outcome": "same", "trainer": TRAINERS[0].hex()},
            {"auditors": [account(3)], "index": 6, "outcome": "different", "trainer": TRAINERS[3].hex()},
        ],
        "beacon": "0x" + BEACON.hex(),
        "format": "hearth-book/1",
        "index": 7,
        "members": [
            {"account": account(0x11), "trainer": TRAINERS[0].hex(), "work": work("a", start=h("local z").hex())},
            {"account": account(0x12), "trainer": TRAINERS[1].hex(), "work": work("b", steps=12)},
        ],
        "parent": "0x" + PARENT.hex(),
        "previous": h("book before").hex(),
        "run": "0x" + RUN.hex(),
    }
    stated.update(changes)
    return stated


def text(value):
    return json.dumps(value, separators=(",", ":"))


def books():
    first = book(audits=[], index=0, previous=None, members=book()["members"][:1])
    for value in [book(), first, book(members=[])]:
        name = blake3(text(value).encode()).hexdigest()
        own = None if value["members"] else "0x" + name
        yield {"text": text(value), "name": name, "ownState": own}


def commitments():
    done = [work("a", start=h("local z").hex()), work("b", steps=12), work("c", carry=False)]
    for index, one in enumerate(done):
        yield {
            "run": "0x" + RUN.hex(),
            "index": str(index),
            "parent": "0x" + PARENT.hex(),
            "trainer": TRAINERS[index].hex(),
            "account": account(0x11),
            "work": one,
            "commitment": commitment(index, TRAINERS[index], bytes([0x11] * 20), one).hex(),
        }


def seals():
    for losses in [[], [0x40400000], [0x40400000, 0x403999A0, 0x7FC00000]]:
        yield {
            "validator": VALIDATORS[0].hex(),
            "losses": losses,
            "key": loss_key(losses).hex(),
            "log": keyed("hearth run log 1", loss_key(losses)).hex(),
            "seal": seal(VALIDATORS[0], losses).hex(),
        }


def draws():
    for number in range(24):
        beacon, trainer = h(f"block {number}"), TRAINERS[number % 4]
        yield {
            "beacon": "0x" + beacon.hex(),
            "run": "0x" + RUN.hex(),
            "index": "0",
            "trainer": trainer.hex(),
            "perMille": 300,
            "isDrawn": is_drawn(beacon, 0, trainer, 300),
            "isCheckedTwice": is_checked_twice(beacon, 0, trainer),
        }


def rates():
    """Section 7: two thousand parts of the work, of twice the work and what is at stake."""
    histories = [[], [[8, 30]], [[7, 30], [8, 12]], [[index, 30] for index in range(9)]]
    histories += [[[0, 30]], [[index, 30] for index in range(0, 9, 2)], [[index, 1] for index in range(9)]]
    for per_mille in [10, 100, 300, 1000]:
        vesting = 4 * -(-1000 // per_mille) - 3
        for earlier in histories:
            at_stake = sum(steps * max(0, vesting - (9 - index)) for index, steps in earlier)
            whole = 2 * 30 * vesting
            yield {
                "perMille": per_mille,
                "vestingRounds": vesting,
                "earlier": earlier,
                "index": "9",
                "steps": 30,
                "rate": max(per_mille, -(-1000 * whole // (whole + at_stake))),
            }


def orders():
    yield {
        "validators": [one.hex() for one in VALIDATORS],
        "parent": "0x" + PARENT.hex(),
        "proposers": [one.hex() for one in order("hearth run proposer 1", PARENT)],
        "beacon": "0x" + BEACON.hex(),
        "index": "7",
        "trainer": TRAINERS[0].hex(),
        "auditors": [
            one.hex() for one in order("hearth run auditor 1", BEACON, u64(7), TRAINERS[0])
        ],
    }


def bad_books():
    good = book()
    yield "json", "{}"
    yield "json", text({**good, "format": "hearth-book/2"})
    yield "json", text({**good, "more": 1})
    yield "not-canonical", text(good) + "\n"
    yield "not-canonical", json.dumps(good)
    yield "not-canonical", text(dict(reversed(good.items())))
    yield "not-canonical", text(good).replace(RUN.hex(), RUN.hex().upper())
    yield "order", text(book(members=good["members"][::-1]))
    yield "order", text(book(members=[good["members"][0]] * 2))
    yield "order", text(book(audits=good["audits"][::-1]))
    twice = {**good["audits"][0], "auditors": [account(2), account(2)]}
    yield "order", text(book(audits=[twice]))
    yield "early", text(book(audits=[{**good["audits"][0], "index": 7}]))
    many = {**good["audits"][0], "auditors": [account(byte) for byte in range(1, 18)]}
    yield "count", text(book(audits=[many]))


def write(name, value):
    (VECTORS / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


write(
    "runs.json",
    {
        "about": "Rounds of a run: commitments, seals, books, draws and orders; see docs/spec/16-runs.md, sections 4 to 7.",
        "commitments": list(commitments()),
        "seals": list(seals()),
        "books": list(books()),
        "draws": list(draws()),
        "rates": list(rates()),
        "orders": list(orders()),
    },
)
write(
    "runs_bad.json",
    {
        "about": "Books that a reader must refuse; see docs/spec/16-runs.md, section 4.",
        "books": [{"error": error, "text": value} for error, value in bad_books()],
    },
)
