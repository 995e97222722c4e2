module words

go 1.20
