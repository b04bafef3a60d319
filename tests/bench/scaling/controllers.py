"""The arithmetic of the autoscalers, as their sources and documents state it.

`Kpa` is Knative's pod autoscaler (pkg/autoscaler/scaling), `Hpa` Kubernetes' horizontal one with a
metric of the kind AverageValue (pkg/controller/podautoscaler), which is what KEDA makes.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field


@dataclass
class Kpa:
    """Knative's; `decide` is called every 2 s. `target`: of one pod, after the utilization."""

    target: float
    window_s: float = 60.0
    panic_threshold: float = 2.0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    scale_down_delay_s: float = 0.0
    panic_since_s: float | None = None
    max_panic_pods: int = 0
    _decided: deque[tuple[float, int]] = field(default_factory=deque)

    def decide(self, now_s: float, stable: float, panic: float, num_ready: int) -> int:
        """Pods for the mean of the metric over the stable and over the panic window."""
        ready = max(1, num_ready)
        most, least = math.ceil(self.max_scale_up_rate * ready), ready // self.max_scale_down_rate
        for_stable, for_panic = math.ceil(stable / self.target), math.ceil(panic / self.target)
        wanted = int(min(max(for_stable, least), most))
        if for_panic / ready >= self.panic_threshold:
            self.panic_since_s = now_s
        elif self.panic_since_s is not None and self.panic_since_s + self.window_s < now_s:
            self.panic_since_s, self.max_panic_pods = None, 0
        if self.panic_since_s is not None:
            wanted = max(wanted, int(min(max(for_panic, least), most)))
            self.max_panic_pods = max(self.max_panic_pods, wanted)
            wanted = self.max_panic_pods
        return self._delayed(now_s, wanted)

    def _delayed(self, now_s: float, wanted: int) -> int:
        """The most of what was wanted within the delay."""
        if not self.scale_down_delay_s:
            return wanted
        self._decided.append((now_s, wanted))
        while self._decided[0][0] <= now_s - self.scale_down_delay_s:
            self._decided.popleft()
        return max(pods for _, pods in self._decided)


@dataclass
class Hpa:
    """Kubernetes'; `decide` is called every 15 s. `target`: the metric's sum for each pod."""

    target: float
    tolerance: float = 0.1
    scale_down_stabilization_s: float = 300.0
    max_added_pods: int = 4  # in a period, or twice as many pods, whichever is more
    _recommended: deque[tuple[float, int]] = field(default_factory=deque)

    def decide(self, now_s: float, total: float, num_pods: int) -> int:
        """Pods for the sum of the metric over all pods."""
        wanted = num_pods
        if num_pods == 0 or abs(1 - total / (self.target * num_pods)) > self.tolerance:
            wanted = math.ceil(total / self.target)
        self._recommended.append((now_s, wanted))
        while self._recommended[0][0] < now_s - self.scale_down_stabilization_s:
            self._recommended.popleft()
        if wanted < num_pods:
            highest = max(pods for _, pods in self._recommended)
            wanted = min(num_pods, highest)
        return min(wanted, max(2 * num_pods, num_pods + self.max_added_pods))
