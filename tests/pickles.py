"""Payloads of calls, made as a client makes them."""

from cw.payloads import serialize


def dump_call(args, kwargs, function=None, store=None, label=0):
    """The payload of a call's arguments."""
    plain = serialize.dump_plain(args, kwargs, label)
    return serialize.pickle_call(args, kwargs, function).payload(store, label) if plain is None else plain
