# Makes plain.tsv of validate.csv files: python gather.py NAME=FILE...; lines as in ../2026-11-23-h100-training/fit/kernels.tsv, where the older ones are from.
import csv, math, sys

for argument in sys.argv[1:]:
    name, file = argument.split("=", 1)
    for row in csv.DictReader(open(file)):
        if row["way"] != "plain" or not row["median_s"] or row["chain"].count("(") > 1:
            continue
        a, b, c, d = map(int, row["chain"].strip("()").split(","))
        lanes, outs, vectors, depth, to, tv = map(int, row["steps"].split(",")[-6:])
        n = int(row["n"])
        tiles = math.ceil(a * d / lanes) * math.ceil(b / outs) * math.ceil(n / vectors)
        threads = lanes * (outs // to) * (vectors // tv)
        print(f"{name}{row['number']}", a, b, c, d, row["dtype"], row["layout"], n, "plain", row["median_s"], f"lanes={lanes}", f"outs={outs}", f"vectors={vectors}",
              f"depth={depth}", f"to={to}", f"tv={tv}", f"tiles={tiles}", f"threads={threads}", sep="\t")
