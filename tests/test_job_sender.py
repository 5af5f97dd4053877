"""What a worker is sent for its jobs: each session and object before the first job that needs it, and once."""

from cw.master.job_sender import JobSender
from cw.master.policy.jobs import Job, Pool, Session, Worker
from cw.master.policy.taken import Place
from cw.needs import ONE_CPU
from cw.net import messages as m
from cw.net.objects import Object
from cw.requirements import WorkerCapacity

PY = (3, 11)
DEPTHS = {1: 0, 2: 3}


class Wire:
    """A connection that keeps what is sent."""

    passes_files = False

    def __init__(self):
        self.sent = []
        self.withdrawn = []

    def send(self, message):
        self.sent.append(message)

    def hurry(self):
        pass

    def withdraw(self, kind, keys):
        self.withdrawn.append((kind, keys))
        return []

    def kinds(self):
        kinds = [type(message) for message in self.sent]
        self.sent.clear()
        return kinds


class Passing:
    """Workers pass on values from `least` bytes."""

    def __init__(self, least=1000):
        self.least = least
        self.wanted = []
        self.forgotten = []

    def is_passed_on(self, size):
        return size >= self.least

    def on_wanted(self, worker, values):
        self.wanted += values

    def on_forgotten(self, worker, values):
        self.forgotten += values


def job(session, dispatch, function):
    made = Job(dispatch, function, None, b"payload")
    made.session = Session(session, PY)
    made.dispatch = dispatch
    return made


def function(session, number=1):
    return Object(number, b"code", m.FUNCTION, session=session)


def sender():
    wire = Wire()
    return JobSender(wire, "w", DEPTHS.get, Passing()), wire


def test_a_function_comes_before_its_first_job_and_only_then():
    jobs, wire = sender()
    f = function(1)
    jobs.send_jobs([job(1, 5, f)])
    assert wire.kinds() == [m.Objects, m.Dispatch]
    jobs.send_jobs([job(1, 6, f)])
    assert wire.sent == [m.Dispatch([6], [1], [6], [1], [0], [1], [b"payload"])]


def test_the_depth_of_a_session_comes_before_its_first_object_if_it_has_one():
    jobs, wire = sender()
    jobs.send_jobs([job(2, 5, function(2))])
    assert wire.sent[0] == m.Depth(2, 3)
    assert wire.kinds() == [m.Depth, m.Objects, m.Dispatch]
    jobs.send_jobs([job(2, 6, function(2, 9))])
    assert wire.kinds() == [m.Objects, m.Dispatch]


def test_a_slot_is_named_to_the_worker_on_which_the_runner_died_and_if_it_is_known():
    jobs, wire = sender()
    pool = Pool(PY)
    f = function(1)
    here, elsewhere, unknown = job(1, 5, f), job(1, 6, f), job(1, 7, f)
    here.excluded_worker, here.excluded_slot = Worker("w", WorkerCapacity(2), pool), 0
    elsewhere.excluded_worker, elsewhere.excluded_slot = Worker("v", WorkerCapacity(2), pool), 1
    unknown.excluded_worker = Worker("w", WorkerCapacity(2), pool)
    jobs.send_jobs([here, elsewhere, unknown])
    assert [message for message in wire.sent if type(message) is m.Avoid] == [m.Avoid([5], [0])]
    assert wire.kinds() == [m.Objects, m.Avoid, m.Dispatch]


def test_only_alternatives_other_than_the_first_are_named_to_the_worker():
    jobs, wire = sender()
    f = function(1)
    first, second = job(1, 5, f), job(1, 6, f)
    first.place, second.place = Place(ONE_CPU), Place(ONE_CPU, choice=1)
    jobs.send_jobs([first, second])
    assert wire.sent[-2] == m.Alternatives([6], [1])
    assert wire.kinds() == [m.Objects, m.Alternatives, m.Dispatch]


def test_a_closed_session_is_closed_once_and_its_objects_come_again_if_it_is_back():
    jobs, wire = sender()
    jobs.send_jobs([job(1, 5, function(1))])
    wire.kinds()
    jobs.close_session(1)
    assert wire.withdrawn == [(m.Depth, {1}), (m.Promise, {1}), (m.Objects, {1})]
    assert wire.sent == [m.CloseSession(1)]
    jobs.close_session(1)
    assert wire.kinds() == [m.CloseSession]
    jobs.send_jobs([job(1, 6, function(1))])
    assert wire.kinds() == [m.Objects, m.Dispatch]


def test_sessions_that_ended_while_the_worker_was_away_are_closed():
    jobs, wire = sender()
    jobs.on_inventory([1, 2])
    jobs.close_unknown_sessions({2})
    assert wire.sent == [m.CloseSession(1)]


def test_an_object_that_is_let_go_is_forgotten_there_and_comes_again_when_it_is_needed():
    jobs, wire = sender()
    f = function(1)
    jobs.send_jobs([job(1, 5, f)])
    wire.kinds()
    jobs.forget_objects([f.key])
    assert wire.sent == [m.Forget([1], [1])]
    wire.kinds()
    jobs.send_jobs([job(1, 6, f)])
    assert wire.kinds() == [m.Objects, m.Dispatch]


def test_on_the_masters_machine_nothing_is_promised():
    wire, passing = Wire(), Passing()
    wire.passes_files = True
    large = Object(2, bytes(1000), m.SHARED, session=1)
    jobs = JobSender(wire, "w", DEPTHS.get, passing)
    jobs.send_jobs([job(1, 5, Object(3, b"code", m.FUNCTION, [large], session=1))])
    assert wire.kinds() == [m.Objects, m.Dispatch] and not passing.wanted


def test_a_large_shared_value_is_promised_and_sent_when_the_policy_says_so():
    wire, passing = Wire(), Passing()
    jobs = JobSender(wire, "w", DEPTHS.get, passing)
    small = Object(1, b"x", m.SHARED, session=1)
    large = Object(2, bytes(1000), m.SHARED, session=1)
    code = Object(3, b"code", m.FUNCTION, [small, large], session=1)
    jobs.send_jobs([job(1, 5, code)])
    promise, objects, dispatch = wire.sent
    assert promise == m.Promise([1], [2], [1000])
    assert objects.numbers == [1, 3]
    assert type(dispatch) is m.Dispatch
    assert passing.wanted == [(1, 2)]
    wire.sent.clear()
    jobs.send_value((1, 2))
    assert wire.sent == [m.Objects([1], [2], [m.SHARED], [[]], [bytes(1000)])]
    wire.sent.clear()
    jobs.forget_objects([(1, 2)])
    assert (1, 2) in passing.forgotten
    wire.sent.clear()
    jobs.send_value((1, 2))  # jobs that wait there need it
    assert wire.kinds() == [m.Objects, m.Forget]
