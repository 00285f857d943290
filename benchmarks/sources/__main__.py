from benchmarks.sources.commands import main

main()
