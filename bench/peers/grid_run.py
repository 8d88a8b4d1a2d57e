"""Runs drawn cases: everybody in turns on the same tensors, errors first; ratios by kind, their geometric mean, the worst."""

import math
import os
import statistics
import time

from grid_tensors import GridTensors

ROUNDS = 3


def _error_limit(name, case):
    if case.dtype == "fp32" and not case.kv.startswith("fp8"):
        return 1e-3
    return 0.12 if "fp8" in (case.q, case.kv) and (name != "Sextant" or case.q == "fp8") else 1.2e-2


def _or_end(name, t, timer, work):
    """After a fault on the device nothing can be measured in this process: says whose it was and ends it."""
    try:
        result = work()
        timer.synchronize()
        return result
    except Exception as error:  # noqa: BLE001
        print(f"FAULT of {name}: {t.case.name}: {str(error).splitlines()[0][:100]}", flush=True)
        os._exit(77)


def _measure(contestants, t, timer):
    """{name: {"us": .., "rms_error": ..} or {"note": ..}}"""
    rows, launches, kept = {}, {}, []
    for contestant in contestants:
        try:
            made = contestant.make(t)
            if made is None:
                continue
            launch, out = made
            kept.append(made)  # a captured graph holds none of the memory that it uses
            launch()
            timer.synchronize()
            error = t.rms_error(out() if callable(out) else out)
            rows[contestant.name] = {"rms_error": error}
            if hasattr(contestant, "description"):
                rows[contestant.name]["plan"] = contestant.description
            if error < _error_limit(contestant.name, t.case):
                launches[contestant.name] = _or_end(contestant.name, t, timer, lambda launch=launch: timer.prepare(launch))
            else:
                rows[contestant.name]["note"] = f"WRONG (rms {error:.1e})"
        except Exception as error:  # noqa: BLE001  (one that fails must not end the comparison)
            rows[contestant.name] = {"note": f"{type(error).__name__}: {str(error).splitlines()[0][:110] if str(error) else ''}"}
    times = {name: [] for name in launches}
    for _ in range(ROUNDS):
        for name, launch in launches.items():
            _or_end(name, t, timer, lambda launch=launch, name=name: times[name].extend(timer.run(launch)))
    for name, list_of in times.items():
        rows[name]["us"] = statistics.median(list_of)
    return rows


def _geometric_mean(ratios):
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def run_grid(contestants, cases, timer, budget, first=0, device="cuda"):
    results, start = [], time.monotonic()
    for index, case in enumerate(cases):
        if index < first:
            continue
        if time.monotonic() - start > budget:
            print(f"out of time after {len(results)} cases")
            break
        t = GridTensors(case, device=device)
        rows = _measure(contestants, t, timer)
        peers = [row["us"] for name, row in rows.items() if name != "Sextant" and "us" in row]
        own = rows.get("Sextant", {})
        ratio = min(peers) / own["us"] if peers and "us" in own else None
        results.append({"case": case.name, "kind": case.kind, "tags": case.tags, "tflop": case.flops / 1e12, "gb": case.kv_bytes / 1e9, "ratio": ratio, "rows": rows})
        notes = "".join(f"  {name}: {row['note']}" for name, row in rows.items() if "note" in row)
        us = f"{own['us']:9.1f} / {min(peers):9.1f} us" if ratio else " " * 23
        print(f"{index:3} {ratio or 0:5.2f}  {us}  {own.get('rms_error', 0):.0e}  {case.name[:95]}{notes}  [{own.get('plan', '').replace(chr(10), '; ')[-70:]}]", flush=True)
        del t
        timer.release()
    return results


def print_summary(results):
    rated = [r for r in results if r["ratio"]]
    if not rated:
        print("no case with a peer")
        return
    print(f"\n{len(rated)} of {len(results)} cases with a peer; ahead in {sum(r['ratio'] >= 1 for r in rated)}; "
          f"geometric mean {_geometric_mean([r['ratio'] for r in rated]):.3f}, worst {min(r['ratio'] for r in rated):.2f}")
    for name in sorted({name for r in rated for name in r["rows"]} - {"Sextant"}):
        ratios = [r["rows"][name]["us"] / r["rows"]["Sextant"]["us"] for r in rated if "us" in r["rows"].get(name, {})]
        if ratios:
            print(f"  {name:16} {len(ratios):3}  mean {_geometric_mean(ratios):.2f}  worst {min(ratios):.2f}")
    by_tag = {}
    for r in rated:
        for tag in r["tags"]:
            by_tag.setdefault(tag, []).append(r["ratio"])
    for tag, ratios in sorted(by_tag.items(), key=lambda item: _geometric_mean(item[1])):
        print(f"  {tag:16} {len(ratios):3}  mean {_geometric_mean(ratios):.2f}  worst {min(ratios):.2f}")
    print("worst:", flush=True)
    for r in sorted(rated, key=lambda r: r["ratio"])[:10]:
        plan = r["rows"]["Sextant"].get("plan", "").replace("\n", "; ")
        print(f"  {r['ratio']:.2f}  {r['case'][:100]}  [{plan[-90:]}]")
