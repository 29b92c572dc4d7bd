"""A store that fails when told to: the one way in which tests here make things go wrong."""

from storage.objects import open_objects


class Crash(BaseException):
    """The process dies: nothing may catch this and nothing after it runs."""


class Faulty:
    """Objects that does `fault(number, verb, key)` before each operation and after each that changes something.

    The fault raises what is to go wrong, or returns. A deletion of many keys is as many operations.
    """

    def __init__(self, objects, fault):
        self.uri = objects.uri
        self.objects, self.fault, self.count = objects, fault, 0

    def _step(self, verb, key):
        self.count += 1
        self.fault(self.count - 1, verb, key)

    def _changing(self, verb, key, act):
        self._step(verb, key)
        answer = act()
        self._step(f"{verb} done", key)
        return answer

    def get(self, key):
        self._step("get", key)
        return self.objects.get(key)

    def get_range(self, key, start, length):
        self._step("get_range", key)
        return self.objects.get_range(key, start, length)

    def put(self, key, content):
        self._changing("put", key, lambda: self.objects.put(key, content))

    def create(self, key, content):
        return self._changing("create", key, lambda: self.objects.create(key, content))

    def publish(self, source, key):
        self._changing("publish", key, lambda: self.objects.publish(source, key))

    def delete(self, keys):
        for key in list(keys):
            self._changing("delete", key, lambda key=key: self.objects.delete([key]))

    def clear(self, folder):
        self._changing("clear", folder, lambda: self.objects.clear(folder))

    def keys(self, folder):
        self._step("keys", folder)
        return self.objects.keys(folder)

    def entries(self, folder):
        self._step("entries", folder)
        return self.objects.entries(folder)

    def size(self, key):
        self._step("size", key)
        return self.objects.size(key)

    def zarr_store(self):
        return self.objects.zarr_store()


def crash_at(number):
    """A fault that ends the process at an operation."""

    def fault(count, verb, key):
        if count == number:
            raise Crash(f"{verb} {key}")

    return fault


def connecting(fault, opened=open_objects):
    """A `connect=` for Run.open whose store has a fault."""
    return lambda uri: Faulty(opened(uri), fault)


def crash_points(do):
    """Yield once for each operation of `do(connect)`, after a run of it that died there; ends with the run that lived."""
    number = 0
    while True:
        try:
            do(connecting(crash_at(number)))
        except Crash as crash:
            yield f"{number}: {crash}"
            number += 1
        else:
            yield "none"
            return
