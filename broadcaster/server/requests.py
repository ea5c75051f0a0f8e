"""The data channel's requests, each handed to who answers it."""

from __future__ import annotations

from collections.abc import Callable

from broadcaster.broker import Broker, Caller, Key
from broadcaster.protocol.errors import BroadcasterError, InvalidRequest, RequestTimeout
from broadcaster.protocol.messages import (
    AddMetrics,
    Archive,
    AwaitAcks,
    Best,
    CreateModel,
    DeleteModel,
    DeleteVersion,
    Describe,
    Follow,
    GetModel,
    GetStats,
    GetVersion,
    GiveUpTerm,
    Hello,
    ListModels,
    ListSubscribers,
    ListVersions,
    Pin,
    Ping,
    Pong,
    Prune,
    Read,
    Replay,
    Request,
    Search,
    SetAlias,
    SetRetention,
    SetTags,
    Stats,
    TakeTerm,
    UpdateModel,
    Welcome,
)
from broadcaster.registry import Registry
from broadcaster.server.changes import Changes, Once
from broadcaster.server.turns import Turns

_CHANGES = (
    CreateModel,
    UpdateModel,
    DeleteModel,
    DeleteVersion,
    Archive,
    SetAlias,
    SetTags,
    AddMetrics,
    Describe,
    SetRetention,
    Prune,
    Pin,
    TakeTerm,
    GiveUpTerm,
)


class Requests:
    """Answers every request of the data channel. `welcome` answers a hello, `gauges` gives the values beside the counters."""

    def __init__(
        self,
        broker: Broker,
        registry: Registry,
        welcome: Callable[[Hello], Welcome],
        gauges: Callable[[], dict[str, float]],
    ) -> None:
        self._broker = broker
        self._registry = registry
        self._welcome = welcome
        self._gauges = gauges
        self._changes = Changes()
        self._turns = Turns()

    def answer(self, request: Request, caller: Caller, now: float) -> None:
        """Answers now or later, once. Raises the typed error to answer with."""
        self._broker.waiting.require_time(caller)
        if isinstance(request, _CHANGES):
            first = self._changes.once(request, caller, now)
            if first is not None:
                self._in_turn(request, (request.namespace, request.model_id), first)
            return
        registry = self._registry
        match request:
            case Read():
                self._broker.reading.read(request, caller)
            case Follow():
                caller.reply(*registry.follow(request))
            case GetVersion():
                caller.reply(registry.version(request))
            case Hello():
                caller.reply(self._welcome(request))
            case ListModels():
                caller.reply(registry.models(request))
            case ListVersions():
                caller.reply(registry.versions(request))
            case GetModel():
                caller.reply(registry.model(request))
            case Replay():
                caller.reply(registry.replay(request))
            case Best():
                registry.searching.best(request, caller)
            case Search():
                registry.searching.search(request, caller)
            case Ping():
                caller.reply(Pong(request_id=request.request_id))
            case ListSubscribers():
                caller.reply(self._broker.acknowledging.subscribers(request, now))
            case AwaitAcks():
                self._broker.acknowledging.wait(request, caller, now)
            case GetStats():
                values = self._broker.rooms.stats.values() | self._gauges()
                caller.reply(Stats(request_id=request.request_id, values=values))
            case _:
                raise InvalidRequest(field="kind", reason=f"{request.KIND.decode()} belongs on the upload channel")

    @property
    def waiting(self) -> int:
        """Changes that wait for others of their model."""
        return self._turns.waiting

    def _in_turn(self, request: Request, key: Key, caller: Once) -> None:
        """Changed when those of the same model that came before are answered, and if there is time left then."""
        waiting = self._broker.waiting
        caller.then = lambda: self._turns.over(key)
        try:
            change = waiting.in_time(caller, lambda: self._change(request, caller, waiting.clock()))
            self._turns.take(key, lambda: self._begin(change, caller))
        except BroadcasterError as error:
            caller.then = None
            caller.refuse(error)

    def _begin(self, change: Callable[[], None], caller: Caller) -> None:
        try:
            change()
        except RequestTimeout as error:
            caller.refuse(error)

    def _change(self, request: Request, caller: Caller, now: float) -> None:
        registry = self._registry
        try:
            match request:
                case CreateModel():
                    registry.create(request, caller, now)
                case UpdateModel():
                    registry.update(request, caller, now)
                case DeleteModel():
                    registry.delete_model(request, caller, now)
                case DeleteVersion():
                    registry.delete_version(request, caller, now)
                case Archive():
                    registry.archive(request, caller)
                case SetAlias():
                    registry.set_alias(request, caller, now)
                case SetTags():
                    registry.set_tags(request, caller, now)
                case Describe():
                    registry.describe(request, caller, now)
                case SetRetention():
                    registry.set_retention(request, caller, now)
                case Prune():
                    self._broker.pruning.prune(request, caller, now)
                case Pin():
                    registry.pin(request, caller, now)
                case AddMetrics():
                    registry.add_metrics(request, caller, now)
                case TakeTerm():
                    self._broker.terms.take(request, caller)
                case GiveUpTerm():
                    self._broker.terms.give_up(request, caller)
        except BroadcasterError as error:
            caller.refuse(error)
