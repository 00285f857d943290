from benchmarks.front.commands import main

main()
