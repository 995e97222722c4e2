package monitor

// ArgProbe asks whether the platform works here.
const ArgProbe = "probe"

func probe() (int, error) { return 0, nil }
