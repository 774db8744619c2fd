"""Runs three servers of which one lies: in the messages that it sends, or in what it computes with."""

from __future__ import annotations

from dataclasses import dataclass, field

from hansa.errors import HansaError
from lockstep import check_received


@dataclass
class Outcome:
    """How a run with a liar ended.

    Attributes:
        errors: by server, what stopped it. results: by server, of those that came to the end.
        told: what the liar was sent: (step, sender, array), in order.
        rounds: rounds that took place.
    """

    errors: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    told: list = field(default_factory=list)
    rounds: int = 0


def run_with_liar(programs, liar, meddle=None):
    """Run to the end, or until every honest server has stopped, or waits for one that has.

    meddle(round number, the liar's Round): the arrays that it sends instead, by receiver, as `Round.send`.
    """
    outcome, rounds = Outcome(), {}

    def advance(index, received=None):
        rounds.pop(index, None)
        try:
            rounds[index] = next(programs[index]) if received is None else programs[index].send(received)
        except StopIteration as stop:
            outcome.results[index] = stop.value
        except HansaError as error:
            outcome.errors[index] = error

    for index in range(3):
        advance(index)
    while rounds:
        send = {index: own.send for index, own in rounds.items()}
        if liar in rounds and meddle is not None:
            send[liar] = meddle(outcome.rounds, rounds[liar])
        ready = {}
        for index, own in rounds.items():
            senders = [sender for sender, shapes in own.expect.items() if shapes]
            if index == liar:
                outcome.told += [(rounds[s].step, s, a) for s in senders if s in send for a in send[s].get(index, [])]
            if all(sender in send for sender in senders):
                ready[index] = {s: [a.copy() for a in send[s].get(index, [])] for s in senders}
                for sender in senders:
                    check_received(own.step, sender, own.expect[sender], ready[index][sender])
        if not ready:
            break
        outcome.rounds += 1
        # Who waits in vain has ended too.
        for index in list(rounds):
            if index not in ready:
                del rounds[index]
        for index, received in ready.items():
            advance(index, received)
    return outcome


def changed(step, change):
    """A round's messages with one array changed: change(arrays of all receivers) alters one in place."""
    copies = {peer: [array.copy() for array in arrays] for peer, arrays in step.send.items()}
    change([array for arrays in copies.values() for array in arrays if array.size])
    return copies
