"""What today's messages were when they were recorded, where that is more than another name (see message_digests.py).

Options of jobs were no objects, and functions had other numbers. A client sent a message `OptionSets` for each set that
it had ever used, before the next batch of jobs; the master sent a worker what it needs of them, as columns of Dispatch.

A client was notified of the reason why its jobs wait once, with a Notice, and of fewer reasons (`FormerWait`).

The simulated cluster draws a latency for each message: so the objects that hold options are sent when those messages
were (`installed`), and what there was not rides with the next message (`rides`).
"""

import contextlib
import json
import math
from typing import NamedTuple
from unittest import mock

from cw.client.session.object_sender import ObjectSender
from cw.master import client_peer
from cw.master.policy.stalls import can_run, queues_in_use
from cw.master.policy.why import Survey
from cw.net import messages as m
from cw.net.objects import ObjectCache
from cw.payloads import log_settings
from cw.requirements import JobOptions
from cw.worker.worker import Worker


class OptionSets(NamedTuple):
    session: int
    number: int
    options: dict


class Dispatch(NamedTuple):
    dispatches: list
    sessions: list
    numbers: list
    functions: list
    avoid: list
    attempts: list
    timeouts: list


class Run(NamedTuple):
    dispatches: list
    functions: list
    attempts: list
    timeouts: list
    numbers: list


class Former:
    """Translates the messages of one simulation, in order."""

    def __init__(self):
        self._sessions = {}  # by client, and by runner
        self._options = {}  # by session: numbers of the objects that hold options, in order
        self._avoid = {}  # by worker and dispatch: 1 + slot

    def of(self, sender, receiver, message):
        translate = getattr(self, f"_{type(message).__name__}", None)
        return [message] if translate is None else translate(sender, receiver, message)

    def _Hello(self, sender, receiver, message):
        if message.role == "client":
            self._sessions[sender] = int(message.ident[:16], 16)
        values = message._asdict()
        slots = {"slots": values.pop("capacity").get("slots", 0)}
        return [_as("Hello", values | slots)]

    def _Objects(self, sender, receiver, message):
        keys = [key or self._sessions[sender] for key in message.sessions]
        if receiver.startswith("runner"):
            self._sessions[receiver] = keys[0]
        if holds_options(message):
            if not receiver.startswith("master"):
                return []
            return [
                self._option_set(keys[0], *entry)
                for entry in zip(message.numbers, message.payloads, strict=True)
            ]
        number = [self._number(*object_) for object_ in zip(keys, message.numbers, strict=True)]
        needs = [
            [self._number(key, need) for need in some] for key, some in zip(keys, message.needs, strict=True)
        ]
        return [message._replace(numbers=number, needs=needs)]

    def _option_set(self, key, number, payload):
        known = self._options.setdefault(key, [])
        if number not in known:
            assert not known or number > known[-1]
            known.append(number)
        return OptionSets(0, 1 + known.index(number), json.loads(payload))

    def _Forget(self, sender, receiver, message):
        keys = [key or self._sessions[sender] for key in message.sessions]
        objects = [*zip(keys, message.numbers, strict=True)]
        assert not any(number in self._options.get(key, ()) for key, number in objects)
        return [message._replace(numbers=[self._number(*object_) for object_ in objects])]

    def _Submit(self, sender, receiver, message):
        key = self._sessions[sender]
        options = [1 + self._options[key].index(number) if number else 0 for number in message.options]
        functions = [self._number(key, number) for number in message.functions]
        return [message._replace(functions=functions, options=options)]

    def _Avoid(self, sender, receiver, message):
        slots = zip(*message, strict=True)
        self._avoid.update({(receiver, dispatch): 1 + slot for dispatch, slot in slots})
        return []

    def _Dispatch(self, sender, receiver, message):
        functions = [
            self._number(*object_) for object_ in zip(message.sessions, message.functions, strict=True)
        ]
        avoid = [self._avoid.pop((receiver, dispatch), 0) for dispatch in message.dispatches]
        return [
            Dispatch(
                message.dispatches, message.sessions, message.numbers, functions, avoid, message.attempts,
                [0.0] * len(functions),
            )
        ]  # fmt: skip

    def _Run(self, sender, receiver, message):
        key = self._sessions[receiver]
        functions = [self._number(key, number) for number in message.functions]
        return [Run(message.dispatches, functions, message.attempts, [0.0] * len(functions), message.numbers)]

    def _number(self, key, number):
        """The number of an object, when those that hold options were none."""
        return number - sum(other < number for other in self._options.get(key, ()))


def holds_options(message):
    return type(message) is m.Objects and set(message.kinds) == {m.OPTIONS}


def rides(message):
    """Is this a message that was not there? (From a client, an object is of the session 0.)"""
    return type(message) is m.Avoid or (holds_options(message) and message.sessions[0] != 0)


def is_kept_waiting(survey, key, is_going_on):
    """Is there no slot that can be used for some open jobs of the session?"""
    session, workers = survey._state.sessions[key], survey._state.workers.values()
    return bool(session.jobs) and not all(can_run(queue, workers) for queue in queues_in_use(session))


class FormerWait:
    """Sends a Notice after three seconds without such a slot."""

    delivered = 0

    def __init__(self):
        self.since = None

    def on_connected(self):
        pass

    def on_second(self, now, is_waiting, delivered):
        if not is_waiting:
            self.since = None
        elif self.since is None:
            self.since = now
        elif now - self.since >= 3.0:
            self.since = math.inf
            return m.Notice("they wait")
        return None


@contextlib.contextmanager
def installed():
    """Objects that hold options are sent by themselves, by a client when OptionSets were sent, and never forgotten."""
    send_objects, prepare, forget = ObjectSender.send_objects, ObjectCache.prepare, Worker._on_forget

    def send_all_options(sender, connection, functions, options):
        known = sender._objects._number_by_digest.items()
        all_options = {number for digest, number in known if isinstance(digest, JobOptions)}
        return send_objects(sender, connection, functions, all_options)

    def prepare_options_first(cache, wanted):
        messages = []
        for message in prepare(cache, wanted):
            entries = [*zip(*message, strict=True)]
            is_mixed = (
                type(message) is m.Objects and m.OPTIONS in message.kinds and not holds_options(message)
            )
            if is_mixed:
                for part in (
                    [entry for entry in entries if entry[2] == m.OPTIONS],
                    [entry for entry in entries if entry[2] != m.OPTIONS],
                ):
                    messages.append(m.Objects(*map(list, zip(*part, strict=True))))
            else:
                messages.append(message)
        return messages

    def forget_others(worker, message):
        others = [
            (key, number)
            for key, number in zip(*message, strict=True)
            if key not in worker._sessions
            or number not in worker._sessions[key].by_number
            or worker._sessions[key].by_number[number].kind != m.OPTIONS
        ]
        if others:
            forget(worker, m.Forget(*map(list, zip(*others, strict=True))))

    with (
        mock.patch.object(ObjectSender, "send_objects", send_all_options),
        mock.patch.object(ObjectCache, "prepare", prepare_options_first),
        mock.patch.object(Worker, "_on_forget", forget_others),
        mock.patch.object(Survey, "why", is_kept_waiting),
        mock.patch.object(log_settings.Watch, "look", lambda self: False),  # (it was not looked at)
        mock.patch.object(client_peer, "Wait", FormerWait),
    ):
        yield


def _as(name, values):
    return NamedTuple(name, [(field, object) for field in values])(**values)
